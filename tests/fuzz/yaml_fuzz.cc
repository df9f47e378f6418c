// SPDX-License-Identifier: Apache-2.0
// Any bytes in a manifest file must end in objects or errors, never in a crash or a long silence,
// and every error must be fit to print. The first byte chooses the file's name.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "api/decode.h"
#include "manifest/manifest_set.h"
#include "manifest/parse.h"

namespace {

void require(bool holds) {
  if (!holds) {
    std::abort();
  }
}

void check(const fairlead::manifest::Problem& problem) {
  require(!problem.file.empty() && !problem.what.empty());
  for (const char c : problem.text()) {
    require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  }
}

}  // namespace

// NOLINTNEXTLINE(readability-identifier-naming): the name that libFuzzer calls
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fairlead::api::Decoder decoder;  // as in the daemon: its buffers outlive the texts
  if (size == 0) {
    return 0;
  }
  const std::string path = data[0] % 2 == 0 ? "fuzz.yaml" : "fuzz.json";
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  fairlead::manifest::ParsedFile parsed = fairlead::manifest::parse(decoder, path, text);
  for (const auto& problem : parsed.errors) {
    check(problem);
    const auto lines = static_cast<int>(text.size()) + 2;
    require(problem.mark.line >= 0 && problem.mark.line <= lines);
  }
  for (const auto& object : parsed.objects) {
    require(object.mark.line > 0);
  }
  // What got in must go through the stages behind, and out again.
  parsed.errors.clear();
  fairlead::manifest::ManifestSet set{fairlead::manifest::AllocatorOptions{}};
  set.put_file(path, parsed);
  const auto changes = set.settle();
  for (const auto& problem : set.errors()) {
    check(problem);
  }
  set.erase_file(path);
  require(set.settle().erased.size() ==
              changes.services.size() + changes.slices.size() + changes.nodes.size() &&
          set.errors().empty());
  return 0;
}
