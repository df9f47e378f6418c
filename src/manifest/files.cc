// SPDX-License-Identifier: Apache-2.0
#include "manifest/files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <memory>
#include <optional>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "base/unique_fd.h"

namespace fairlead::manifest {
namespace {

FileSignature signature_of(const struct stat& info) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  return {info.st_dev, info.st_ino, static_cast<std::uint64_t>(info.st_size),
          (info.st_mtim.tv_sec * kSecond) + info.st_mtim.tv_nsec,
          (info.st_ctim.tv_sec * kSecond) + info.st_ctim.tv_nsec};
}

std::optional<std::string> resolve(const std::string& path) {
  struct Free {
    void operator()(char* text) const { std::free(text); }
  };
  const std::unique_ptr<char, Free> real(::realpath(path.c_str(), nullptr));
  return real ? std::optional<std::string>(real.get()) : std::nullopt;
}

/// Nothing for directories and what vanished meanwhile.
std::optional<ListedFile> look_at(std::string path, std::string unlinked_path) {
  struct stat link{};
  if (::lstat(path.c_str(), &link) != 0) {
    return std::nullopt;
  }
  ListedFile file{std::move(path), std::move(unlinked_path), S_ISLNK(link.st_mode), {}};
  struct stat target{};
  if (::stat(file.path.c_str(), &target) == 0) {
    if (S_ISDIR(target.st_mode)) {
      return std::nullopt;
    }
    file.signature = signature_of(target);
  }
  if (file.is_link) {
    file.real_path = resolve(file.path).value_or(file.real_path);
  }
  return file;
}

}  // namespace

bool is_manifest_name(std::string_view name) {
  return !name.starts_with('.') &&
         (name.ends_with(".yaml") || name.ends_with(".yml") || name.ends_with(".json"));
}

Result<std::vector<ListedFile>> list_manifests(const std::string& path) {
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0) {
    return fail_errno(errno, "open");
  }
  const std::string real = resolve(path).value_or(path);
  std::vector<ListedFile> files;
  if (!S_ISDIR(info.st_mode)) {
    if (auto file = look_at(path, real)) {
      files.push_back(std::move(*file));
    }
    return files;
  }
  std::error_code error;
  for (auto entry = std::filesystem::directory_iterator(path, error);
       !error && entry != std::filesystem::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (is_manifest_name(name)) {
      std::string full = path;
      full += full.ends_with('/') ? "" : "/";
      if (auto file = look_at(full + name, (real == "/" ? "" : real) + "/" + name)) {
        files.push_back(std::move(*file));
      }
    }
  }
  if (error) {
    return fail_errno(error.value(), "list");
  }
  std::ranges::sort(files, {}, &ListedFile::path);
  return files;
}

Result<std::string> read_manifest(const std::string& path) {
  // O_NONBLOCK: a fifo that someone left here must not hang us before we see what it is.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    return fail_errno(errno, "open");
  }
  struct stat before{};
  if (::fstat(fd.get(), &before) != 0) {
    return fail_errno(errno, "stat");
  }
  if (!S_ISREG(before.st_mode)) {
    return fail(ErrorKind::kInvalidInput, "is not a regular file; remove or rename it");
  }
  std::string text;
  std::array<char, std::size_t{64} * 1024> buffer{};
  while (true) {
    const ssize_t count = ::read(fd.get(), buffer.data(), buffer.size());
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      return fail_errno(errno, "read");
    }
    if (count == 0) {
      break;
    }
    text.append(buffer.data(), static_cast<std::size_t>(count));
    if (text.size() > kMaxFileBytes) {
      return fail(ErrorKind::kInvalidInput, "is larger than 64 MiB; split it");
    }
  }
  struct stat after{};
  if (::fstat(fd.get(), &after) != 0) {
    return fail_errno(errno, "stat");
  }
  if (signature_of(before) != signature_of(after)) {
    return fail(ErrorKind::kUnavailable, "is being written to");
  }
  return text;
}

Status write_atomically(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  {
    const UniqueFd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!fd) {
      return fail_errno(errno, "create " + temporary);
    }
    while (!text.empty()) {
      const ssize_t count = ::write(fd.get(), text.data(), text.size());
      if (count < 0 && errno != EINTR) {
        return fail_errno(errno, "write " + temporary);
      }
      text.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
    }
    if (::fsync(fd.get()) != 0) {
      return fail_errno(errno, "sync " + temporary);
    }
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return fail_errno(errno, "rename " + temporary + " to " + path);
  }
  return {};
}

}  // namespace fairlead::manifest
