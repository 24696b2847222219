// The command as a new user meets it: what it answers, and for each mistake its exit code and its one line.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "paths.h"
#include "tests/support/batch_files.h"
#include "tests/support/command.h"

namespace longhaul {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace test;

const std::string kModel = LONGHAUL_SOURCE_DIR "/apps/demo/demo-7m";

std::string content(const json& record) {
  return record.at("response").at("body").at("choices")[0].at("message").at("content");
}

const std::string kBatch = "batch --log-level warn --max-tokens 12 --model " + kModel + " ";

TEST_CASE("help and version go to stdout") {
  ScratchDir dir;
  CHECK(run_command(dir, "--version").out.starts_with("longhaul 0."));
  for (const char* verb : {"", "run ", "batch ", "plan ", "bench ", "doctor ", "calibrate ", "completion "}) {
    Outcome help = run_command(dir, std::string(verb) + "--help");
    CHECK(help.exit == 0);
    CHECK_THAT(help.out, contains("Examples:"));
    CHECK(help.err.empty());
  }
}

TEST_CASE("completion knows the verbs and their flags") {
  ScratchDir dir;
  for (const char* shell : {"bash", "zsh", "fish"}) {
    Outcome outcome = run_command(dir, std::string("completion ") + shell);
    CHECK(outcome.exit == 0);
    CHECK_THAT(outcome.out, contains("gpu-memory") && contains("batch") && contains("published"));
  }
  run_command(dir, "completion bash > script");
  CHECK(std::system(("bash -n " + (dir.path() / ".out").string()).c_str()) == 0);
}

TEST_CASE("a lost stdout is an error") {
  ScratchDir dir;
  for (const char* arguments : {"--help", "completion fish", "batch --print-config"}) {
    Outcome outcome = run_command(dir, std::string(arguments) + " >/dev/full 2>.err #");
    CHECK_THAT(outcome.err, contains("stdout: cannot be written"));
    CHECK(outcome.exit == 5);
  }
}

TEST_CASE("tokenize: JSONL only when every line is an object") {
  ScratchDir dir;
  auto lines = [&](const std::string& text, const std::string& flags = "") {
    dir.write("in", text);
    Outcome outcome = run_command(dir, "tokenize --input in " + flags + " --model " + kModel);
    CHECK(outcome.exit == 0);
    return std::count(outcome.out.begin(), outcome.out.end(), '\n');
  };
  CHECK(lines("{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n") == 2);
  CHECK(lines("{\"text\": \"a\"}\nand then?\n") == 1);
  CHECK(lines("[1]\n") == 1);
  check_refused(dir, "tokenize --model " + kModel + " --input .", 5, "is a folder");
  check_refused(dir, "tokenize --model " + kModel + " < .", 5, "stdin: is a folder");
}

TEST_CASE("run streams an answer") {
  ScratchDir dir;
  dir.write("prompt.txt", document("The Road", 20) + "Summarize the document.\n");
  Outcome outcome = run_command(dir, "run --prompt-file prompt.txt --max-tokens 12 --model " + kModel);
  CHECK(outcome.exit == 0);
  CHECK_THAT(outcome.out, contains("Title: The Road"));
}

TEST_CASE("a model's repetition_penalty is the default of run and batch, flags and requests have their own") {
  ScratchDir dir;
  fs::create_directories(dir.path() / "qwen");
  for (const auto& file : fs::directory_iterator(kModel))
    if (file.path().filename() != "generation_config.json")
      fs::copy_file(file.path(), dir.path() / "qwen" / file.path().filename());
  dir.write("qwen/generation_config.json",
            R"({"do_sample": false, "repetition_penalty": 1.3, "eos_token_id": [1, 4], "temperature": 0.7})");
  auto run = [&](const std::string& model, const std::string& flags) {
    return run_command(dir,
                       "run --log-level warn --max-tokens 40 --prompt 'Once upon a time' --model " + model + flags);
  };
  const Outcome plain = run(kModel, ""), penalised = run("qwen", "");
  CHECK(penalised.exit == 0);
  CHECK(penalised.out != plain.out);
  CHECK(run(kModel, " --repetition-penalty 1.3").out == penalised.out);
  CHECK(run("qwen", " --repetition-penalty 1").out == plain.out);

  auto request = [](const char* id, const char* more) {
    return std::string(R"({"custom_id": ")") + id +
           R"(", "body": {"messages": [{"role": "user", "content": "Once upon a time"}])" + more + "}}\n";
  };
  dir.write("r.jsonl", request("a", "") + request("b", R"(, "repetition_penalty": 1)"));
  CHECK(run_command(dir, "batch --log-level warn --max-tokens 40 --model qwen --input r.jsonl --output out").exit == 0);
  const auto all = records(dir.path() / "out");
  REQUIRE(all.size() == 2);
  CHECK(content(all[0]) + "\n" == penalised.out);
  CHECK(content(all[1]) + "\n" == plain.out);
}

TEST_CASE("a batch answers in input order, whatever the policy, and a bad document is a record") {
  ScratchDir dir;
  fs::create_directories(dir.path() / "docs/sub");
  dir.write("docs/a.txt", document("The Road", 10));
  dir.write("docs/b.txt", "not \xff text");
  dir.write("docs/c.txt", document("The River", 120));
  dir.write("docs/sub/d.txt", document("The Hill", 40));
  auto run = [&](const std::string& name, const std::string& flags) {
    Outcome outcome = run_command(dir, kBatch + "--input docs --output " + name + " " + flags);
    CHECK(outcome.exit == 1);
    std::vector<json> all = records(dir.path() / name);
    REQUIRE(all.size() == 4);
    return all;
  };
  std::vector<json> dense = run("dense.jsonl", "--policy dense"),
                    one = run("one.jsonl", "--policy stream --batch-size 1"),
                    few = run("few.jsonl", "--policy stream --gpu-memory 24MiB --prefill-chunk 64"),
                    coded = run("coded.jsonl", "--policy stream --gpu-memory 24MiB --kv-dtype int8"),
                    resident = run("resident.jsonl", "--policy dense --set policy.kv_dtype=int8");
  std::vector<std::string> ids{"a.txt", "b.txt", "c.txt", "sub/d.txt"};
  for (std::size_t i = 0; i < 4; ++i) CHECK(dense[i].at("custom_id") == ids[i]);
  CHECK(dense[1].at("response").is_null());
  CHECK(dense[1].at("error").at("code") == "invalid_utf8");
  for (std::size_t i : {0, 2, 3}) {
    CHECK(dense[i].at("error").is_null());
    CHECK_THAT(content(dense[i]), contains("Title: The"));
    CHECK(content(dense[i]) == content(one[i]));
    CHECK(content(dense[i]) == content(few[i]));
    CHECK_THAT(content(coded[i]), contains("Title: The"));
    CHECK(content(coded[i]) == content(resident[i]));
  }
}

TEST_CASE("a JSONL batch: each line its record, a bad line too") {
  ScratchDir dir;
  json good{{"custom_id", "good"},
            {"method", "POST"},
            {"url", "/v1/chat/completions"},
            {"body", {{"messages", {{{"role", "user"}, {"content", "Hello <|end|>"}}}}, {"max_tokens", 3}}}};
  json system = good, huge = good;
  system["custom_id"] = "system", system["body"]["messages"][0]["role"] = "system";  // this model's template refuses it
  huge["custom_id"] = "huge", huge["body"]["max_tokens"] = 40000;
  dir.write("r.jsonl", good.dump() + "\n{oops\n" + system.dump() + "\n" + huge.dump() + "\n");
  CHECK(run_command(dir, kBatch + "--input r.jsonl --output out.jsonl").exit == 1);
  auto all = records(dir.path() / "out.jsonl");
  REQUIRE(all.size() == 4);
  CHECK(all[0].at("response").at("body").at("usage").at("completion_tokens") <= 3);
  CHECK(all[1].at("custom_id") == "r.jsonl:2");
  CHECK_THAT(all[2].at("error").at("message").get<std::string>(), contains("only the roles user and assistant"));
  CHECK(all[3].at("error").at("code") == "context_length_exceeded");
  CHECK_THAT(all[3].at("error").at("message").get<std::string>(), contains("40000") && contains("32768"));
}

TEST_CASE("the printed config is the config") {
  ScratchDir dir;
  Outcome first = run_command(
      dir,
      "batch --print-config --model m --input a 'b \"c' --gpu-memory 80MiB --temperature 0.5 "
      "--weights stream:3 --hidden-states host --weight-format bf16 --instruction 42 --print --max-tokens 4K "
      "--prefill-chunk 256 --kv-dtype fp8");
  CHECK(first.exit == 0);
  CHECK_THAT(first.out, contains("stream:3") && contains("hidden-states") && contains("weight-format"));
  CHECK_THAT(first.out, contains("gpu-memory = \"80MiB\"") || contains("gpu-memory = '80MiB'"));
  CHECK_THAT(first.out, contains("kv-dtype = \"fp8\"") || contains("kv-dtype = 'fp8'"));
  dir.write("c.toml", first.out);
  CHECK(run_command(dir, "batch --print-config --config c.toml").out == first.out);
  CHECK_THAT(run_command(dir, "batch --print-config --config c.toml --gpu-memory 1GiB").out,
             contains("1GiB") && !contains("80MiB"));
  for (const auto& file : fs::recursive_directory_iterator(LONGHAUL_SOURCE_DIR "/config"))
    if (const auto folder = file.path().parent_path().filename();
        file.path().extension() == ".toml" && folder != "policies" && folder != "geometries")
      CHECK(run_command(dir, "batch --print-config --config " + file.path().string()).exit == 0);
}

TEST_CASE("mistakes on the command line and in the config") {
  ScratchDir dir;
  dir.write("doc.txt", document("The Road", 1));
  dir.write("unknown.toml", "gpu-memory = \"80MiB\"\ngpu-mem = \"1GiB\"\n");
  dir.write("broken.toml", "policy = \"stream\"\nmodel = \n");
  dir.write("bare.toml", "gpu-memory = 80\n");
  dir.write("policy.toml", "resident = 2.0\n");
  std::string batch = kBatch + "--input doc.txt --output out.jsonl ";
  check_refused(dir, "", 2, "subcommand");
  check_refused(dir, "rum", 2, "rum");
  check_refused(dir, batch + "--gpu-mem 1GiB", 2, "--gpu-mem");
  check_refused(dir, "batch --input doc.txt --output out.jsonl", 2, "--model is required");
  check_refused(dir, "batch --model m --output out.jsonl", 2, "--input is required");
  check_refused(dir, batch + "--gpu-memory 24", 2, "--gpu-memory: size '24' has no unit; write 24GiB");
  check_refused(dir, batch + "--max-model-len 64K", 2, "the model's context is 32768 tokens");
  for (const char* bad :
       {"--temperature -1", "--temperature nan", "--top-p nan", "--cpu-link nan", "--cpu-link 1e-300",
        "--repetition-penalty 0", "--repetition-penalty -1", "--repetition-penalty inf", "--repetition-penalty nan"})
    check_refused(dir, batch + bad, 2, std::string(bad).substr(0, 7));
  check_refused(dir, batch + "--instruction \"$(printf 'a\\377')\"", 2, "--instruction: not valid UTF-8 at byte 1");
  check_refused(dir, batch + "--device tpu", 2, "known: auto, cpu, cuda");
  check_refused(dir, batch + "--device cuda:0", 7, "use --device cpu");
  check_refused(dir, batch + "--policy fast", 2, "stream");
  check_refused(dir, batch + "--policy policy.toml", 2, "'resident'");
  check_refused(dir, batch + "--config absent.toml", 2, "absent.toml: No such file");
  check_refused(dir, batch + "--config .", 2, ".: is a folder");
  check_refused(dir, batch + "--config /proc/self/mem", 2, "/proc/self/mem: cannot be read");
  check_refused(dir, batch + "--config unknown.toml", 2, "unknown.toml: 'gpu-mem' is not a key");
  check_refused(dir, batch + "--config broken.toml", 2, "broken.toml:2");
  check_refused(dir, batch + "--config bare.toml", 2, "bare.toml: --gpu-memory: size '80' has no unit");
  check_refused(dir, batch + "--gpu-memory 1MiB", 4, "--gpu-memory");
  CHECK_FALSE(fs::exists(dir.path() / "out.jsonl"));
}

TEST_CASE("inputs and outputs that cannot be used") {
  ScratchDir dir;
  dir.write("doc.txt", document("The Road", 1));
  dir.write("empty.txt", " \n");
  dir.write("old.jsonl", "mine\n");
  check_refused(dir, kBatch + "--input absent --output out.jsonl", 5, "absent: no such file or folder");
  check_refused(dir, kBatch + "--input doc.txt --output no/out.jsonl", 5, "no/out.jsonl: cannot be written");
  check_refused(dir, kBatch + "--input doc.txt --output old.jsonl", 2, "exists and is not this job's");
  check_refused(dir, kBatch + "--input doc.txt doc.txt --output out.jsonl", 2, "same custom_id");
  check_refused(dir, "run --prompt-file absent --model " + kModel, 5, "absent: No such file");
  check_refused(dir, "run --prompt-file /dev/null --model " + kModel, 5, "/dev/null: not a regular file");
  check_refused(dir, "run --prompt ' ' --model " + kModel, 2, "--prompt: is empty");
  check_refused(dir, "run --prompt-file empty.txt --model " + kModel, 5, "the document is empty");
  check_refused(dir, "run --prompt \"$(printf 'a\\377')\" --model " + kModel, 2, "not valid UTF-8 at byte 1");
  check_refused(dir, "run --prompt hello --max-tokens 32K --model " + kModel, 2, "--max-tokens 32768: the context");
  check_refused(dir, "run --model " + kModel, 2, "--prompt");
}

TEST_CASE("a name is printed as text") {
  ScratchDir dir;
  dir.write("a\n\x1b[2J.txt", "");
  Outcome outcome = run_command(dir, kBatch + "--input ./*.txt --output out.jsonl");
  CHECK(outcome.exit == 1);
  CHECK_THAT(outcome.err, contains("a\\n\\x1b[2J.txt: failed, empty_document") && !contains("\x1b"));
}

TEST_CASE("a model whose template is wrong ends the batch") {
  ScratchDir dir;
  dir.write("doc.txt", document("The Road", 1));
  fs::copy(kModel, dir.path() / "m", fs::copy_options::recursive);
  dir.write("m/chat_template.jinja", "{{ 9999999999 * 9999999999 }}");
  check_refused(dir, "batch --input doc.txt --output out.jsonl --model m", 3, "a number too large");
  CHECK_FALSE(fs::exists(dir.path() / "out.jsonl"));
}

TEST_CASE("the chat template of the flags takes the place of the model's") {
  ScratchDir dir;
  dir.write("c.json", R"({"messages": [{"role": "user", "content": "Hi <|end|>"}], "bos_token": "<b>"})");
  dir.write("mine.jinja", "{{ bos_token }}{{ x }}{% for m in messages %}[{{ m.content }}]{% endfor %}\n\n");
  const std::string render = "tokenize --render c.json --model " + kModel;
  CHECK(run_command(dir, render).out == "<b><|user|>Hi <|end|>");
  CHECK(run_command(dir, render + " --chat-template mine.jinja --template-var x=[1,true]").out ==
        "<b>[1, True][Hi <|end|>]");
  dir.write("raises.jinja", "{{ raise_exception('no\\nway') }}");
  check_refused(dir, render + " --chat-template raises.jinja", 2, "raises.jinja: no\\nway");
  dir.write("wrong.jinja", "{{ none.x.y }}");
  check_refused(dir, render + " --chat-template wrong.jinja", 2, "wrong.jinja:1: y of something undefined");
  dir.write("list.json", "[]");
  check_refused(dir, "tokenize --render list.json --model " + kModel, 2, "list.json: must be a JSON object");
  check_refused(dir, render + " --now noon", 2, "--now noon: needs a time such as 2026-07-26T12:00:00");
  check_refused(dir, "tokenize --now 2026-07-26T12:00:00 --model " + kModel, 2, "are of --render");

  const std::string run = "run --log-level warn --max-tokens 4 --prompt Hello --model " + kModel;
  CHECK(run_command(dir, run + " --no-chat-template").exit == 0);
  CHECK(run_command(dir, run + " --chat-template mine.jinja --template-var x=1").exit == 0);
  check_refused(dir, run + " --chat-template wrong.jinja", 2, "wrong.jinja:1: y of something undefined");
  check_refused(dir, run + " --chat-template absent.jinja", 5, "absent.jinja");
  check_refused(dir, run + " --no-chat-template --template-var x=1", 2, "contradicts");
  check_refused(dir, run + " --template-var x", 2, "--template-var x: needs NAME=VALUE");
}

TEST_CASE("models that cannot be used") {
  ScratchDir dir;
  int made = 0;
  auto broken = [&](auto&& change) {
    fs::path copy = dir.path() / std::string("m").append(std::to_string(made++));
    fs::copy(kModel, copy, fs::copy_options::recursive);
    change(copy);
    return "run --prompt hello --model " + copy.string();
  };
  auto with_config = [&](const std::string& key, const json& value) {
    return broken([&](const fs::path& copy) {
      json config = json::parse(text_of(copy / "config.json"));
      config[key] = value;
      std::ofstream(copy / "config.json") << config;
    });
  };
  auto with_weights = [&](const std::string& bytes) {
    return broken([&](const fs::path& copy) { std::ofstream(copy / "model.safetensors") << bytes; });
  };
  check_refused(dir, "run --prompt hello --model absent", 3, "absent: no such folder");
  check_refused(dir, with_config("model_type", "mamba"), 3, "mamba");
  check_refused(dir, with_config("sliding_window_layers", 3), 3, "sliding_window_layers");
  check_refused(dir, with_config("intermediate_size", 700), 3, "mlp");
  check_refused(dir, with_config("vocab_size", 300), 3, "but vocab_size in the config is 300");
  check_refused(dir, broken([](const fs::path& copy) {
                  std::ofstream(copy / "generation_config.json") << R"({"eos_token_id": 9999999})";
                }),
                3, "generation_config.json ends answers with token 9999999");
  check_refused(dir, broken([](const fs::path& copy) { fs::remove(copy / "config.json"); }), 3, "model folder?");
  check_refused(dir, with_weights("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 13\n"), 3, "LFS");
  check_refused(dir, broken([](const fs::path& copy) { fs::resize_file(copy / "model.safetensors", 5000000); }), 3,
                "model.safetensors");
  check_refused(dir, broken([](const fs::path& copy) {
                  fs::remove(copy / "model.safetensors");
                  std::ofstream(copy / "model.safetensors.index.json")
                      << R"({"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}})";
                }),
                3, "model-00001-of-00001.safetensors");
  check_refused(dir, broken([](const fs::path& copy) { std::ofstream(copy / "tokenizer.json") << "{"; }), 3,
                "tokenizer.json");
}

TEST_CASE("weights and hidden states: flags that change no answer, and mistakes in them") {
  ScratchDir dir;
  const std::string run = "run --prompt \"Once upon a time\" --max-tokens 8 --model " + kModel + " ";
  const Outcome plain = run_command(dir, run);
  CHECK(plain.exit == 0);
  CHECK_THAT(plain.err, contains("weights: all on the device"));
  const Outcome moved = run_command(dir, run + "--weights stream:5 --hidden-states host");
  CHECK(moved.exit == 0);
  CHECK(moved.out == plain.out);
  CHECK_THAT(moved.err, contains("3 of 8 layers on the device, 5 streamed") && contains("in host memory"));
  CHECK(run_command(dir, run + "--weights stream").out == plain.out);
  check_refused(dir, run + "--weights some", 2, "expected auto, resident, stream or stream:LAYERS");
  check_refused(dir, run + "--weights stream:0", 2, "expected auto");
  check_refused(dir, run + "--weights stream:9", 2, "9 layers are to be streamed, and the model has 8");
  check_refused(dir, run + "--hidden-states disk", 2, "hidden-states");
  check_refused(dir, run + "--weight-format q4", 2, "weight-format");
  check_refused(dir, run + "--weight-format packed", 2, "no layer of this model has any that can be");
}

TEST_CASE("the weight format changes no answer of a quantised model") {
  ScratchDir dir;
  const std::string run = "run --policy dense --prompt \"hello world\" --max-tokens 8 --model " LONGHAUL_SOURCE_DIR
                          "/tests/data/quantised/gguf/tiny.gguf --weight-format ";
  const Outcome plain = run_command(dir, run + "auto");
  CHECK(plain.exit == 0);
  CHECK_THAT(plain.err, contains("in the file, bf16 in memory"));
  for (const char* more : {"", " --weights stream"}) {
    const Outcome packed = run_command(dir, run + "packed" + more);
    CHECK(packed.exit == 0);
    CHECK(packed.out == plain.out);
    CHECK_THAT(packed.err, contains("packed as "));
  }
}

TEST_CASE("policy flags: what is wrong is one line that names the key") {
  ScratchDir dir;
  dir.write("doc.txt", "Words.");
  dir.write("taken", "something");
  const std::string run = "run --prompt-file doc.txt --max-tokens 2 --gpu-memory 1GiB --model " + kModel + " ";
  check_refused(dir, run + "--set share=1/8", 2, "expected policy.KEY=VALUE");
  check_refused(dir, run + "--set policy.shares=1/8", 2, "unknown key 'shares'");
  check_refused(dir, run + "--set policy.rows=0", 2, "'rows' must be");
  check_refused(dir, run + "--set policy.rows=40000", 2, "more than the model's context");
  check_refused(dir, run + "--set policy.label_dims=65", 2, "more than the model's head_dim");
  check_refused(dir, run + "--set policy.dense_layers=[8]", 2, "names layer 8");
  check_refused(dir, run + "--policy dense --set policy.share=1/8", 2, "'share' has no meaning");
  check_refused(dir, run + "--kv-dtype int3", 2, "int3");
  check_refused(dir, run + "--set policy.kv_dtype=8", 2, "'kv_dtype' must be a text, one of bf16, int8, fp8, int4");
  check_refused(dir, run + "--log-level off --record-trace taken", 2, "holds something already");
  CHECK(run_command(dir, run + "--log-level off --record-trace trace --set policy.rows=64").exit == 0);
  CHECK(text_of(dir.path() / "trace").starts_with("{\"format\":\"longhaul-trace-1\""));
  CHECK(run_command(dir, run + "--policy published-offload --set policy.labels=qk").exit == 0);
}

}  // namespace
}  // namespace longhaul
