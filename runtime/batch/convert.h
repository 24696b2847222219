// Documents that are no plain text: PDF and HTML, turned into text by the programs that everybody uses for it.
#pragma once
#include <filesystem>
#include <optional>
#include <string>

namespace longhaul {

/// The program for a file, by the end of its name; none: it is text as it is. Throws UserError{usage} naming the
/// packages when none of the programs that could do it is on this machine.
struct Converter {
  std::string program;  // its full path
  std::string name;     // "pdftotext"
};
std::optional<Converter> find_converter(const std::filesystem::path& file);

/// What the program makes of the file. Throws DocumentError{conversion_failed}, and Stopped.
std::string convert(const Converter& converter, const std::filesystem::path& file);

}  // namespace longhaul
