// Readers of published quantised linear layers. Each takes the module's name, "model.layers.0.mlp.up_proj", and the
// shape [out, in] of its weight, and checks all parts before a byte of data is read. Values are code times scale in
// float32, rounded once to bf16.
#pragma once
#include <memory>
#include <string>

#include "runtime/checkpoint/quantization_config.h"
#include "runtime/checkpoint/tensor_reader.h"

namespace longhaul {

/// MODULE.weight of I8 or F8_E4M3, with scales of the tensor, its rows, or blocks: MODULE.weight_scale
/// (compressed-tensors) or MODULE.weight_scale_inv (which is a factor too, whatever it is called).
std::unique_ptr<TensorReader> scaled_reader(const TensorFiles& files, const std::string& module,
                                            const TensorShape& shape, const Quantization& quantization);
/// MODULE.qweight, qzeros, scales and g_idx, packed along the inputs.
std::unique_ptr<TensorReader> gptq_reader(const TensorFiles& files, const std::string& module, const TensorShape& shape,
                                          const Quantization& quantization);
/// MODULE.qweight, qzeros and scales in the "gemm" packing, along the outputs.
std::unique_ptr<TensorReader> awq_reader(const TensorFiles& files, const std::string& module, const TensorShape& shape,
                                         const Quantization& quantization);

/// Bytes [n] of float scales: the values of a part of type BF16, F16 or F32.
std::vector<float> read_floats(const TensorFiles& files, const std::string& name, const TensorInfo& info);

}  // namespace longhaul
