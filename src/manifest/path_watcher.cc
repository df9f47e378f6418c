// SPDX-License-Identifier: Apache-2.0
#include "manifest/path_watcher.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <cstddef>
#include <cstring>
#include <deque>
#include <filesystem>
#include <optional>
#include <ranges>
#include <string_view>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

#include "base/text.h"

namespace fairlead::manifest {
namespace {

/// Of a directory that paths lead through: its entries may come, go and be replaced.
constexpr std::uint32_t kPassing =
    IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF;
/// Of one whose files are read.
constexpr std::uint32_t kReading = kPassing | IN_MODIFY | IN_CLOSE_WRITE | IN_ATTRIB;
constexpr int kMaxLinks = 40;  // as the kernel's own limit

std::optional<std::string> link_target(const std::string& path) {
  std::array<char, PATH_MAX> buffer{};
  const ssize_t length = ::readlink(path.c_str(), buffer.data(), buffer.size());
  return length > 0 ? std::optional<std::string>(
                          std::string(buffer.data(), static_cast<std::size_t>(length)))
                    : std::nullopt;
}

void push_front(std::deque<std::string>& parts, std::string_view path) {
  const std::vector<std::string_view> pieces = split(path, '/');
  for (const std::string_view piece : std::views::reverse(pieces)) {
    if (!piece.empty() && piece != ".") {
      parts.emplace_front(piece);
    }
  }
}

}  // namespace

Result<std::unique_ptr<PathWatcher>> PathWatcher::open(event::Loop& loop, OnChange on_change) {
  UniqueFd fd(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  if (!fd) {
    return fail_errno(
        errno, errno == EMFILE ? "inotify: raise sysctl fs.inotify.max_user_instances" : "inotify");
  }
  // make_unique cannot reach the private constructor.
  std::unique_ptr<PathWatcher> watcher(new PathWatcher(std::move(fd), std::move(on_change)));
  watcher->fd_watch_ = loop.watch_fd(watcher->fd_.get(), {.readable = true, .writable = false},
                                     [raw = watcher.get()](event::FdEvents) { raw->drain(); });
  return watcher;
}

PathWatcher::PathWatcher(UniqueFd fd, OnChange on_change)
    : fd_(std::move(fd)), on_change_(std::move(on_change)) {}

Status PathWatcher::watch(const std::vector<std::string>& paths) {
  std::map<std::string, Interest> interests;
  for (const std::string& path : paths) {
    follow(path, interests);
  }
  Status status;
  std::unordered_map<int, Watch> now;
  for (auto& [directory, interest] : interests) {
    const int id = ::inotify_add_watch(fd_.get(), directory.c_str(), interest.mask | IN_ONLYDIR);
    if (id < 0) {
      // Gone again meanwhile: its parent's watch tells. A parent that we may not list: the entries
      // below are watched themselves.
      const bool is_passing = (interest.mask & IN_MODIFY) == 0;
      if (errno != ENOENT && errno != ENOTDIR && !(is_passing && errno == EACCES)) {
        status = fail_errno(
            errno, errno == ENOSPC
                       ? "watch " + directory + ": raise sysctl fs.inotify.max_user_watches"
                       : "watch " + directory);
      }
      continue;
    }
    now[id] = Watch{directory, std::move(interest)};
  }
  for (const auto& [id, watch] : watches_) {
    if (!now.contains(id)) {
      ::inotify_rm_watch(fd_.get(), id);  // fails if the directory is gone: as well
    }
  }
  watches_ = std::move(now);
  return status;
}

/// Walks the path as the kernel would, noting each directory and the name looked up in it.
void PathWatcher::follow(const std::string& path, std::map<std::string, Interest>& interests) {
  std::deque<std::string> parts;
  std::error_code error;
  push_front(parts, std::filesystem::absolute(path, error).native());
  std::string at;  // empty: the root
  int links = 0;
  while (!parts.empty()) {
    const std::string name = std::move(parts.front());
    parts.pop_front();
    if (name == "..") {
      at.erase(std::min(at.rfind('/'), at.size()));
      continue;
    }
    Interest& interest = interests[at.empty() ? "/" : at];
    interest.names.insert(name);
    std::string next = at;
    next.append("/").append(name);
    struct stat info{};
    const bool exists = ::lstat(next.c_str(), &info) == 0;
    interest.mask |=
        exists && (S_ISDIR(info.st_mode) || S_ISLNK(info.st_mode)) ? kPassing : kReading;
    if (!exists) {
      return;
    }
    if (S_ISLNK(info.st_mode)) {
      const auto target = link_target(next);
      if (!target || ++links > kMaxLinks) {
        return;
      }
      if (target->starts_with('/')) {
        at.clear();
      }
      push_front(parts, *target);
      continue;
    }
    at = next;
    if (!S_ISDIR(info.st_mode)) {
      return;
    }
  }
  Interest& interest = interests[at.empty() ? "/" : at];
  interest.mask |= kReading;
  interest.all_names = true;
}

void PathWatcher::drain() {
  alignas(inotify_event) std::array<char, std::size_t{64} * 1024> buffer;
  while (true) {
    const ssize_t length = ::read(fd_.get(), buffer.data(), buffer.size());
    if (length <= 0) {
      return;  // EAGAIN; nothing else is possible but EINTR, and then the loop calls again
    }
    for (std::size_t at = 0; at < static_cast<std::size_t>(length);) {
      inotify_event event{};
      std::memcpy(&event, buffer.data() + at, sizeof(event));
      const char* name = event.len > 0 ? buffer.data() + at + sizeof(event) : "";
      deliver(event.wd, event.mask, name);
      at += sizeof(event) + event.len;
    }
  }
}

void PathWatcher::deliver(int watch_id, std::uint32_t mask, const char* name) {
  if ((mask & IN_Q_OVERFLOW) != 0) {
    on_change_(Change::kLost, "");
    return;
  }
  const auto found = watches_.find(watch_id);
  if (found == watches_.end() || (mask & IN_IGNORED) != 0) {
    return;
  }
  const Watch& watch = found->second;
  std::string path = watch.directory == "/" ? "" : watch.directory;
  if (*name != '\0') {
    if (!watch.interest.all_names && !watch.interest.names.contains(name)) {
      return;
    }
    path += "/";
    path += name;
  }
  const bool is_directory = (mask & IN_ISDIR) != 0;
  Change change = Change::kEntry;
  if ((mask & IN_CLOSE_WRITE) != 0) {
    change = Change::kWritten;
  } else if ((mask & IN_MODIFY) != 0 || ((mask & IN_CREATE) != 0 && !is_directory)) {
    change = Change::kWriting;
  }
  on_change_(change, path);
}

}  // namespace fairlead::manifest
