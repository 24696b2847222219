# cmake -DSOURCE=... -DHEADER=... -P commit.cmake: a header with the commit that is being built; "-dirty" where files
# differ from it, "unknown" outside of a repository. Rewritten only when it changes.
execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --abbrev=10 OUTPUT_VARIABLE commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${HEADER} CONTENT "// Generated.\n#pragma once\ninline constexpr char kCommit[] = \"${commit}\";\n")
