# What `cmake --install` puts where: the command, the libraries it needs but for the C library and CUDA's, the demo and
# the examples of config/. The folder can be moved: the command finds its libraries beside itself.
include(GNUInstallDirs)
set(libraries ${CMAKE_INSTALL_LIBDIR}/longhaul)
file(RELATIVE_PATH libraries_from_bin /${CMAKE_INSTALL_BINDIR} /${libraries})
set_target_properties(longhaul PROPERTIES INSTALL_RPATH "$ORIGIN/${libraries_from_bin}")
# RPATH, not RUNPATH: it serves the libraries that the libraries need, too.
target_link_options(longhaul PRIVATE -Wl,--disable-new-dtags)
install(TARGETS longhaul RUNTIME_DEPENDENCY_SET needed)
install(RUNTIME_DEPENDENCY_SET needed DESTINATION ${libraries}
  PRE_EXCLUDE_REGEXES "^libcu(blas|dnn|da)" "^ld-linux"
  POST_EXCLUDE_REGEXES "/lib(c|m|dl|rt|pthread|resolv)\\.so\\.[0-9]+$" "/ld-linux[^/]*$")
install(DIRECTORY config/budgets config/geometries config/policies DESTINATION ${CMAKE_INSTALL_DATADIR}/longhaul/config)
install(DIRECTORY apps/demo/ DESTINATION ${CMAKE_INSTALL_DATADIR}/longhaul/demo)
install(FILES README.md CHANGELOG.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
