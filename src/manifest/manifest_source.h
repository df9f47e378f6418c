// SPDX-License-Identifier: Apache-2.0
// Services, slices and nodes from manifest files, kept up to date as the files change.
#pragma once

#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "api/decode.h"
#include "api/objects.h"
#include "api/sink.h"
#include "event/loop.h"
#include "manifest/allocator.h"
#include "manifest/files.h"
#include "manifest/manifest_set.h"
#include "manifest/parse.h"
#include "manifest/path_watcher.h"

namespace fairlead::manifest {

struct ManifestOptions {
  /// A file, or a directory whose `*.yaml *.yml *.json` are read (not below it).
  std::string path;
  AllocatorOptions allocation;
  /// Keeps allocated addresses over restarts whatever is added or removed meanwhile (see
  /// allocator.h). Empty: none.
  std::string state_file;

  /// Files are read when no change was seen for this long, but at the latest after
  /// `settle_at_most`.
  std::chrono::milliseconds settle{50};
  std::chrono::milliseconds settle_at_most{500};
  /// A file that was changed but not closed is left alone until it has rested for this long: half
  /// of it may be valid and lack half of the objects.
  std::chrono::milliseconds patience{500};
  /// How often to look when there is nothing to wait for (inotify is not to be had, `path` cannot
  /// be read).
  std::chrono::milliseconds poll{2000};
};

struct Loaded {
  std::vector<api::Shared<api::Service>> services;
  std::vector<api::Shared<api::EndpointSlice>> slices;
  std::vector<api::Shared<api::Node>> nodes;
  std::vector<Problem> errors;
};

/// Reads everything once. Broken files give nothing but their errors. Writes no state file.
[[nodiscard]] Loaded load_once(const ManifestOptions& options);

/// Delivers to a sink. All on the control thread; reading local files blocks it shortly.
///
/// A path that does not exist is waited for, and nothing counts as synced before. When it goes away
/// later (moved, deleted as a whole), what it gave stays in force: services are removed by removing
/// their files from the directory, or their text from the file.
class ManifestSource {
 public:
  ManifestSource(event::Loop& loop, api::Sink& sink, ManifestOptions options);
  ManifestSource(const ManifestSource&) = delete;
  ManifestSource& operator=(const ManifestSource&) = delete;
  ~ManifestSource();

  /// Reads and delivers what is there, within this call, then keeps watching.
  void start();

  /// What is wrong at present, in the order of files and lines.
  [[nodiscard]] std::vector<Problem> errors() const;
  [[nodiscard]] bool synced() const { return synced_; }

 private:
  struct Known {
    std::optional<FileSignature> signature;   // none: could not be read, to be tried again
    std::optional<std::size_t> content_hash;  // of what was parsed last
  };
  struct Fresh {
    const ListedFile* file = nullptr;
    Result<std::string> text;
  };

  void load_state();
  void save_state();
  void on_change(PathWatcher::Change change, const std::string& path);
  [[nodiscard]] bool is_relevant(PathWatcher::Change change, const std::string& path) const;
  void schedule();
  void rescan();
  void look_through(const std::vector<ListedFile>& files);
  void watch();
  void drain();
  void forget_old_writers();
  [[nodiscard]] std::vector<Fresh> read_changed(const std::vector<ListedFile>& files);
  void take(Fresh& fresh);
  void drop_missing(const std::vector<ListedFile>& files);
  void deliver();
  void finish_rescan();
  void log_errors();

  event::Loop& loop_;
  api::Sink& sink_;
  ManifestOptions options_;
  api::Decoder decoder_;
  ManifestSet set_;
  std::unique_ptr<PathWatcher> watcher_;
  std::unique_ptr<event::Timer> rescan_timer_;
  std::unique_ptr<event::Timer> poll_timer_;
  std::map<std::string, Known> known_;  // by path
  bool synced_ = false;

  // What was seen since the last rescan.
  std::optional<event::TimePoint> first_change_;
  bool look_at_all_ = false;
  std::set<std::string> changed_;                          // real paths
  std::map<std::string, event::TimePoint> writing_since_;  // real path -> last change

  std::string real_directory_;          // empty: the path is a file, or not there
  std::set<std::string> links_;         // in the directory
  std::set<std::string> link_targets_;  // their real paths
  int first_tries_ = 0;                 // scans put off before the first delivery
  bool has_unreadable_ = false;
  std::optional<Problem> path_error_;
  std::optional<Problem> watch_error_;
  std::optional<Problem> state_error_;
  bool state_is_foreign_ = false;  // unreadable: not ours to overwrite
  Memory saved_memory_;
  std::set<std::string> logged_;
};

}  // namespace fairlead::manifest
