// longhaul completion: a shell's completion script, made from the command's own verbs and flags.
#include <iostream>
#include <memory>
#include <vector>

#include "apps/verbs.h"

namespace longhaul {
namespace {

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

std::string flags_of(const CLI::App& verb) {
  std::string flags;
  for (const CLI::Option* option : verb.get_options())
    for (const std::string& name : option->get_lnames()) flags += (flags.empty() ? "--" : " --") + name;
  return flags;
}

std::string names_of(const CLI::App& app) {
  std::string names;
  for (const CLI::App* verb : verbs_of(app)) names += (names.empty() ? "" : " ") + verb->get_name();
  return names;
}

/// `text` inside single quotes, for fish.
std::string quoted(std::string text) {
  for (std::size_t at = 0; (at = text.find_first_of("'\\", at)) != std::string::npos; at += 2) text.insert(at, 1, '\\');
  return fmt::format("'{}'", text);
}

std::string bash(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* verb : verbs_of(app))
    cases += fmt::format("    {}) words='{}' ;;\n", verb->get_name(), flags_of(*verb));
  return fmt::format(R"(_longhaul() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  case "${{COMP_WORDS[1]}}" in
{}    *) words='{} {}' ;;
  esac
  if [[ $word == -* || $COMP_CWORD -eq 1 ]]; then COMPREPLY=($(compgen -W "$words" -- "$word")); fi
}}
complete -o default -F _longhaul longhaul
)",
                     cases, names_of(app), flags_of(app));
}

std::string zsh(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* verb : verbs_of(app))
    cases += fmt::format("    {}) flags=({}) ;;\n", verb->get_name(), flags_of(*verb));
  return fmt::format(R"(#compdef longhaul
_longhaul() {{
  local -a flags
  case "${{words[2]}}" in
{}    *) flags=({}) ;;
  esac
  if (( CURRENT == 2 )); then compadd -- {} $flags
  elif [[ "${{words[CURRENT]}}" == -* ]]; then compadd -- $flags
  else _files; fi
}}
if [[ "$funcstack[1]" == _longhaul ]]; then _longhaul "$@"  # a file of fpath is the function's body
else compdef _longhaul longhaul; fi
)",
                     cases, flags_of(app), names_of(app));
}

std::string fish(const CLI::App& app) {
  std::string text;
  for (const CLI::App* verb : verbs_of(app)) {
    text += fmt::format("complete -c longhaul -n __fish_use_subcommand -f -a {} -d {}\n", verb->get_name(),
                        quoted(verb->get_description()));
    for (const CLI::Option* option : verb->get_options())
      for (const std::string& name : option->get_lnames())
        text +=
            fmt::format("complete -c longhaul -n '__fish_seen_subcommand_from {}' -l {}{} -d {}\n", verb->get_name(),
                        name, option->get_expected_max() > 0 ? " -r" : "", quoted(option->get_description()));
  }
  return text;
}

}  // namespace

void register_completion(CLI::App& app) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "Print a shell completion script");
  verb->add_option("shell", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->footer(
      "Examples:\n"
      "  longhaul completion bash > ~/.local/share/bash-completion/completions/longhaul\n"
      "  longhaul completion zsh > \"${fpath[1]}/_longhaul\"\n"
      "  longhaul completion fish > ~/.config/fish/completions/longhaul.fish");
  verb->callback([&app, shell] {
    std::cout << (*shell == "bash" ? bash(app) : *shell == "zsh" ? zsh(app) : fish(app));
  });
}

}  // namespace longhaul
