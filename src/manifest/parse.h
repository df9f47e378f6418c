// SPDX-License-Identifier: Apache-2.0
// One manifest file's text -> objects and errors, both with their places. Pure.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "api/decode.h"
#include "manifest/document.h"

namespace fairlead::manifest {

/// What is wrong in a file, where, in which object and field (both empty if not known), and what to
/// do about it.
struct Problem {
  std::string file;
  Mark mark;
  std::string object;
  std::string field;
  std::string what;

  /// `file:line:column: object: field: what to do`, without the parts that are not known.
  [[nodiscard]] std::string text() const;
  friend bool operator==(const Problem&, const Problem&) = default;
};

/// The kinds that we use. Shared, for the file's record and whatever is made of it hold the same
/// objects; never null.
using Object =
    std::variant<api::Shared<api::Service>, api::Shared<api::EndpointSlice>, api::Shared<api::Node>,
                 api::Shared<api::Pod>, api::Shared<api::Endpoints>>;

struct ParsedObject {
  Object object;
  Mark mark;
};

struct ParsedFile {
  std::vector<ParsedObject> objects;
  /// Of kinds that we do not use.
  std::vector<api::Unsupported> skipped;
  /// Any error makes the file broken: a caller takes all of its objects or none.
  std::vector<Problem> errors;
};

/// `path` is for messages, and `.json` at its end forbids YAML. All documents are read, also after
/// one with a wrong object in it; text that is not YAML ends the reading there.
[[nodiscard]] ParsedFile parse(api::Decoder& decoder, std::string_view path, std::string_view text);

}  // namespace fairlead::manifest
