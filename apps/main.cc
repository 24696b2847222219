#include "apps/command.h"

int main(int argc, char** argv) { return static_cast<int>(longhaul::command(argc, argv)); }
