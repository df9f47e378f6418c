# SPDX-License-Identifier: Apache-2.0
# BPF C into an object and a libbpf skeleton. The clang is a fixed one, whatever compiles the rest:
# the verifier has seen what this one makes.
find_program(BPF_CLANG NAMES clang-14 REQUIRED)
find_program(BPFTOOL NAMES bpftool PATHS /usr/sbin REQUIRED)

# Where Debian keeps asm/types.h, which the bpf target does not look for by itself.
execute_process(COMMAND g++ -print-multiarch
  OUTPUT_VARIABLE BPF_MULTIARCH OUTPUT_STRIP_TRAILING_WHITESPACE)

# fairlead_bpf_object(NAME SOURCES OUT HEADERS...): SOURCES/NAME.bpf.c gives NAME.bpf.o and NAME.skel.h in OUT.
function(fairlead_bpf_object name sources out)
  file(MAKE_DIRECTORY ${out})
  add_custom_command(OUTPUT ${out}/${name}.bpf.o
    COMMAND ${BPF_CLANG} -g -O2 -target bpf -mcpu=v3 -Wall -Werror
      -isystem /usr/include/${BPF_MULTIARCH} -c ${sources}/${name}.bpf.c -o ${out}/${name}.full.o
    # Drops DWARF, nearly half of the file; BTF with its line numbers stays.
    COMMAND ${BPFTOOL} gen object ${out}/${name}.bpf.o ${out}/${name}.full.o
    DEPENDS ${sources}/${name}.bpf.c ${ARGN}
    COMMENT "Building BPF object ${name}" VERBATIM)
  add_custom_command(OUTPUT ${out}/${name}.skel.h
    COMMAND sh -c "${BPFTOOL} gen skeleton ${out}/${name}.bpf.o name ${name}_bpf > ${out}/${name}.skel.h"
    DEPENDS ${out}/${name}.bpf.o VERBATIM)
endfunction()

# fairlead_bpf(NAME): bpf/NAME.bpf.c, into the build folder's bpf/.
function(fairlead_bpf name)
  set(out ${PROJECT_BINARY_DIR}/bpf)
  file(GLOB headers CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/bpf/*.h ${PROJECT_SOURCE_DIR}/bpf/*.c)
  fairlead_bpf_object(${name} ${PROJECT_SOURCE_DIR}/bpf ${out} ${headers})
  add_custom_target(fairlead_bpf_${name} DEPENDS ${out}/${name}.skel.h ${out}/${name}.bpf.o)
endfunction()
