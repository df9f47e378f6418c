# SPDX-License-Identifier: Apache-2.0
# One function per kind of target; flags live on targets, never globally.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
if(FAIRLEAD_TESTS)
  enable_testing()
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()

add_library(fairlead_flags INTERFACE)
target_compile_features(fairlead_flags INTERFACE cxx_std_20)
target_compile_definitions(fairlead_flags INTERFACE _GLIBCXX_ASSERTIONS)
target_compile_options(fairlead_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wsign-conversion -Wold-style-cast
  -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-qual -Werror)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # g++ 12 reports these inside the standard library's own headers at -O2 (fixed in 13).
  target_compile_options(fairlead_flags INTERFACE -Wno-restrict -Wno-maybe-uninitialized)
endif()
if(FAIRLEAD_SANITIZE)
  target_compile_options(fairlead_flags INTERFACE -fsanitize=${FAIRLEAD_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(fairlead_flags INTERFACE -fsanitize=${FAIRLEAD_SANITIZE})
endif()
if(FAIRLEAD_HARDEN)
  target_compile_options(fairlead_flags INTERFACE -fstack-protector-strong -D_FORTIFY_SOURCE=2 -fPIE)
  target_link_options(fairlead_flags INTERFACE -Wl,-z,relro,-z,now -pie)
endif()

# fairlead_pkg(NAME PKG...): imported target fairlead_pkg_NAME with system headers from pkg-config.
function(fairlead_pkg name)
  if(NOT TARGET PkgConfig::${name})
    pkg_check_modules(${name} REQUIRED IMPORTED_TARGET GLOBAL ${ARGN})
  endif()
endfunction()

# fairlead_module(NAME SOURCES ... [USES other modules...] [LIBS libraries...] [TESTS x_test.cc...] [TEST_USES ...])
# Makes library fairlead_NAME from the current folder and test program fairlead_NAME_test.
function(fairlead_module name)
  cmake_parse_arguments(M "" "" "SOURCES;USES;LIBS;TESTS;TEST_USES;TEST_LIBS" ${ARGN})
  add_library(fairlead_${name} STATIC ${M_SOURCES})
  set_target_properties(fairlead_${name} PROPERTIES UNITY_BUILD "${FAIRLEAD_UNITY}" UNITY_BUILD_BATCH_SIZE 0)
  target_include_directories(fairlead_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
  list(TRANSFORM M_USES PREPEND fairlead_)
  list(TRANSFORM M_TEST_USES PREPEND fairlead_)
  target_link_libraries(fairlead_${name} PUBLIC fairlead_flags ${M_USES} PRIVATE ${M_LIBS})
  if(FAIRLEAD_TESTS AND M_TESTS)
    add_executable(fairlead_${name}_test ${M_TESTS})
    target_link_libraries(fairlead_${name}_test PRIVATE fairlead_${name} ${M_TEST_USES} ${M_TEST_LIBS} GTest::gmock GTest::gtest_main)
    gtest_discover_tests(fairlead_${name}_test TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60)
  endif()
endfunction()
