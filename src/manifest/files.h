// SPDX-License-Identifier: Apache-2.0
// Finding and reading manifest files. Blocking, but only on local files.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace fairlead::manifest {

inline constexpr std::size_t kMaxFileBytes = std::size_t{64} << 20U;

/// What stat tells about a file's content. An equal signature means an unchanged file, but for
/// edits within one tick of the file system's clock: those are known from change events.
struct FileSignature {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;  // 0: could not be read
  std::uint64_t size = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;

  friend bool operator==(const FileSignature&, const FileSignature&) = default;
};

struct ListedFile {
  std::string path;       // as the user would write it, for messages
  std::string real_path;  // without symbolic links; of a dangling one, the link itself
  bool is_link = false;   // the last part of `path` is a symbolic link
  FileSignature signature;
};

/// The manifest files at `path`, in byte order of their paths: itself if it is a file, or the
/// `*.yaml *.yml *.json` of a directory, without hidden ones and without its subdirectories (a
/// ConfigMap mount keeps former versions in hidden ones). kNotFound if there is nothing at `path`.
[[nodiscard]] Result<std::vector<ListedFile>> list_manifests(const std::string& path);

[[nodiscard]] bool is_manifest_name(std::string_view name);

/// A whole regular file of at most kMaxFileBytes. kUnavailable: it was written to meanwhile.
[[nodiscard]] Result<std::string> read_manifest(const std::string& path);

/// Replaces `path` by a complete file or leaves it as it was.
[[nodiscard]] Status write_atomically(const std::string& path, std::string_view text);

}  // namespace fairlead::manifest
