// SPDX-License-Identifier: Apache-2.0
// YAML and JSON text -> documents. Pure. The only place that calls yaml-cpp; its exceptions end
// here.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "manifest/document.h"

namespace fairlead::manifest {

/// All documents up to the first error. Empty documents (a lone `---`, only comments) are left out.
struct Documents {
  std::vector<Document> documents;
  std::optional<TextError> error;
};

/// YAML 1.2 with the core schema: plain `true`, `null`, `12` are typed, quoted text stays text.
/// Anchors, aliases and merge keys (`<<`) are resolved. Repeated keys, keys that are not scalars
/// and unknown tags are errors. `text` must be UTF-8 without control characters.
[[nodiscard]] Documents read_yaml(std::string_view text, Budget& budget);

/// One or more JSON values after another (RFC 8259), with repeated keys as errors. Not done by the
/// YAML reader: that one knows no surrogate pairs (`\ud83d\ude00`) and takes more than JSON allows.
[[nodiscard]] Documents read_json(std::string_view text);

/// The first byte that is not UTF-8 text without control characters (tab, CR, LF are fine). Such
/// text is refused before parsing: yaml-cpp ends at a 0x04 as if the file did.
[[nodiscard]] std::optional<TextError> check_text(std::string_view text);

}  // namespace fairlead::manifest
