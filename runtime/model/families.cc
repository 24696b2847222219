#include "runtime/model/families.h"

#include <algorithm>

namespace longhaul {
namespace {

const std::vector<const char*> kRouting{"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"};

const std::vector<Family> kFamilies{
    {.model_type = "llama",
     .qkv_bias = {"attention_bias"},
     .out_bias = {"attention_bias"},
     .fixed = {{"mlp_bias", "false"}, {"pretraining_tp", "1"}, {"rope_interleaved", "false"}},
     .ignored = {"is_llama_config"},
     .bos = 1,
     .eos = 2},
    {.model_type = "mistral", .windows = Windows::all, .kv_heads = 8, .window = 4096, .bos = 1, .eos = 2},
    {.model_type = "mixtral",
     .windows = Windows::all,
     .experts = ExpertNames{.count = {"num_local_experts", "num_experts"},
                            .intermediate = "intermediate_size",
                            .normalised = {nullptr, true},
                            .router = "block_sparse_moe.gate",
                            .list = "block_sparse_moe.experts",
                            .gate = "w1",
                            .up = "w3",
                            .down = "w2"},
     .ignored = kRouting,
     .kv_heads = 8,
     .theta = 1e6,
     .bos = 1,
     .eos = 2},
    {.model_type = "qwen2",
     .qkv_bias = {nullptr, true},
     .dual_chunks = true,
     .windows = Windows::upper,
     .fixed = {{"use_mrope", "false"}},
     .kv_heads = 32},
    {.model_type = "qwen3",
     .qkv_bias = {"attention_bias"},
     .out_bias = {"attention_bias"},
     .head_norm = true,
     .dual_chunks = true,
     .windows = Windows::upper,
     .kv_heads = 32,
     .head_dim = 128},
    {.model_type = "qwen3_moe",
     .qkv_bias = {"attention_bias"},
     .out_bias = {"attention_bias"},
     .head_norm = true,
     .dual_chunks = true,
     .windows = Windows::switched,
     .experts = ExpertNames{.count = {"num_experts", "num_local_experts"},
                            .intermediate = "moe_intermediate_size",
                            .normalised = {"norm_topk_prob"},
                            .router = "mlp.gate",
                            .list = "mlp.experts",
                            .gate = "gate_proj",
                            .up = "up_proj",
                            .down = "down_proj"},
     .fixed = {{"decoder_sparse_step", "1"}, {"mlp_only_layers", "[]"}},
     .ignored = {"intermediate_size", "max_window_layers", "output_router_logits", "router_aux_loss_coef"},
     .kv_heads = 4},
    {.model_type = "phi3",
     .fused = true,
     .windows = Windows::all,
     .trained_length = "original_max_position_embeddings",
     .longrope_names = {"su", "yarn"},
     .fixed = {{"attention_bias", "false"}, {"mlp_bias", "false"}, {"lm_head_bias", "false"}},
     .ignored = {"embd_pdrop", "resid_pdrop"},
     .bos = 1,
     .eos = 32000},
    {.model_type = "seed_oss",
     .qkv_bias = {"attention_bias", true},
     .out_bias = {"attention_out_bias"},
     .fixed = {{"mlp_bias", "false"}},
     .ignored = {"residual_dropout", "pretraining_tp"},
     .kv_heads = 8,
     .head_dim = 128,
     .bos = 0,
     .eos = 2},
    {.model_type = "smollm3",
     .qkv_bias = {"attention_bias"},
     .out_bias = {"attention_bias"},
     .skips_rope = true,
     .windows = Windows::without_rope,
     .fixed = {{"mlp_bias", "false"}},
     .ignored = {"max_window_layers", "pretraining_tp"},
     .kv_heads = 4,
     .theta = 2e6,
     .tied = true,
     .bos = 128000,
     .eos = 128001},
};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family* find_family(std::string_view model_type) {
  const auto found =
      std::ranges::find(kFamilies, model_type, [](const Family& f) { return std::string_view(f.model_type); });
  return found == kFamilies.end() ? nullptr : &*found;
}

}  // namespace longhaul
