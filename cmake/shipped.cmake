# ship_files(HEADER TABLE FILES...): a generated header with `TABLE`, the text of each file under its name, so that the
# names work from any folder.
function(ship_files header table)
  set(text "// Generated.\n#pragma once\n#include <array>\n#include <string_view>\n#include <utility>\nnamespace longhaul {\n")
  list(LENGTH ARGN count)
  string(APPEND text "inline constexpr std::array<std::pair<std::string_view, std::string_view>, ${count}> ${table}{{\n")
  foreach(file IN LISTS ARGN)
    get_filename_component(name ${file} NAME_WLE)
    file(READ ${file} content)
    string(APPEND text "{\"${name}\", R\"toml(${content})toml\"},\n")
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${file})
  endforeach()
  file(CONFIGURE OUTPUT ${header} CONTENT "${text}}};\n}  // namespace longhaul\n" @ONLY)
endfunction()
