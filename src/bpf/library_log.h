// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace fairlead::bpf {

/// What libbpf says while this object lives, the verifier's log included, is kept instead of
/// written to the standard error: it belongs into our errors. One at a time per thread; other
/// threads are not heard.
class LibraryLog {
 public:
  LibraryLog();
  LibraryLog(const LibraryLog&) = delete;
  LibraryLog& operator=(const LibraryLog&) = delete;
  ~LibraryLog();

  /// The last lines, joined.
  [[nodiscard]] std::string text() const;

 private:
  std::vector<std::string> lines_;
  std::vector<std::string>* outer_;
};

}  // namespace fairlead::bpf
