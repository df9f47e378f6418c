// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace fairlead::kube {

/// Cuts a stream of JSON objects, with or without blanks between them, into single ones. It only
/// looks at braces and quotes; whether the text is JSON is the decoder's business.
class JsonFrames {
 public:
  /// `limit`: bytes of one object beyond which the stream is given up.
  explicit JsonFrames(std::size_t limit) : limit_(limit) {}

  /// Calls `on_object` for each object that `bytes` completes; false from it ends the call early
  /// with true, and nothing may be fed any more. False: not a stream of objects, or one too large.
  [[nodiscard]] bool feed(std::string_view bytes,
                          const std::function<bool(std::string_view)>& on_object);
  /// Bytes of an object whose end has not come yet.
  [[nodiscard]] std::size_t pending() const { return partial_.size(); }

 private:
  std::size_t limit_;
  std::string partial_;
  std::size_t depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
};

}  // namespace fairlead::kube
