// The tensors of a GGUF file under their Hugging Face names.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "runtime/checkpoint/gguf.h"
#include "runtime/checkpoint/tensor_reader.h"

namespace longhaul {

/// The tensor that llama-type files with scaled RoPE carry: a divisor for each frequency; and those of phi3's, for
/// contexts up to the trained length and past it. Their reader is gguf_config().
inline constexpr const char *kGgufRopeFactors = "rope_freqs.weight", *kGgufShortFactors = "rope_factors_short.weight",
                            *kGgufLongFactors = "rope_factors_long.weight";

/// Finds readers in this file (or where it was moved to). The rows of q and k of llama-type files are stored with the
/// two halves of each head interleaved, as their programs turn pairs of neighbours; here they come in Hugging Face's
/// order. Experts, which are stored as one tensor, come one by one.
std::function<std::unique_ptr<TensorReader>(const TensorFiles&, const std::string&, const TensorShape&)> gguf_finder(
    const Gguf& file);

/// "blk.3.ffn_up.weight" for "model.layers.3.mlp.up_proj.weight"; empty where GGUF has no such tensor.
std::string gguf_name(const std::string& hugging_face_name);

}  // namespace longhaul
