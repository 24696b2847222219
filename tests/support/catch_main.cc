// Catch2 v2 wants its main compiled somewhere; v3 brings it as a library.
#ifdef LONGHAUL_CATCH2_V2
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
