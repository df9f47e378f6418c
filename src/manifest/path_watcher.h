// SPDX-License-Identifier: Apache-2.0
// Tells about changes at paths that need not exist yet and may lead through symbolic links, by
// inotify on every directory on the way. Control thread only.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "event/loop.h"

namespace fairlead::manifest {

class PathWatcher {
 public:
  enum class Change {
    kWriting,  // opened for writing and changed, or created: more is likely to come
    kWritten,  // closed after writing
    kEntry,    // came, went, or changed its rights or its place in the tree
    kLost,     // events were lost (the path is empty): look at everything
  };
  /// `path` is absolute and without symbolic links.
  using OnChange = std::function<void(Change change, const std::string& path)>;

  /// Without inotify (limit of instances reached): the error says which limit.
  [[nodiscard]] static Result<std::unique_ptr<PathWatcher>> open(event::Loop& loop,
                                                                 OnChange on_change);

  /// From now on these: each with all that it leads through; of directories also the entries.
  /// To be called again whenever a link or a directory may have changed. On an error as much as
  /// possible is watched.
  [[nodiscard]] Status watch(const std::vector<std::string>& paths);

  /// Delivers what has happened up to now, without waiting for the loop.
  void drain();

 private:
  struct Interest {
    std::uint32_t mask = 0;
    bool all_names = false;
    std::set<std::string> names;
  };
  struct Watch {
    std::string directory;
    Interest interest;
  };

  PathWatcher(UniqueFd fd, OnChange on_change);
  static void follow(const std::string& path, std::map<std::string, Interest>& interests);
  void deliver(int watch_id, std::uint32_t mask, const char* name);

  UniqueFd fd_;
  OnChange on_change_;
  std::unordered_map<int, Watch> watches_;
  std::unique_ptr<event::FdWatch> fd_watch_;  // last: stops before the fd closes
};

}  // namespace fairlead::manifest
