// SPDX-License-Identifier: Apache-2.0
#include "manifest/manifest_source.h"

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <string_view>
#include <utility>

#include "base/log.h"

namespace fairlead::manifest {
namespace {

Problem problem_at(const std::string& file, std::string what) {
  return Problem{file, {}, "", "", std::move(what)};
}

/// Nothing remembered if there is no such file.
Result<Memory> read_state(const std::string& path) {
  if (path.empty()) {
    return Memory{};
  }
  const Result<std::string> text = read_manifest(path);
  if (!text) {
    return text.error().kind() == ErrorKind::kNotFound ? Result<Memory>(Memory{})
                                                       : fail(text.error());
  }
  return Memory::parse(*text);
}

void log_skipped(const std::string& path, const ParsedFile& parsed) {
  for (const api::Unsupported& object : parsed.skipped) {
    log::debug("manifest object of an unused kind is skipped",
               {{"file", path}, {"apiVersion", object.api_version}, {"kind", object.kind}});
  }
}

}  // namespace

Loaded load_once(const ManifestOptions& options) {
  Loaded loaded;
  Result<Memory> memory = read_state(options.state_file);
  if (!memory) {
    loaded.errors.push_back(problem_at(options.state_file, memory.error().text()));
  }
  ManifestSet set(options.allocation, memory ? std::move(*memory) : Memory{});
  const Result<std::vector<ListedFile>> files = list_manifests(options.path);
  if (!files) {
    loaded.errors.push_back(problem_at(options.path, files.error().text()));
    return loaded;
  }
  api::Decoder decoder;
  for (const ListedFile& file : *files) {
    const Result<std::string> text = read_manifest(file.path);
    if (!text) {
      set.fail_file(file.path, text.error().text());
      continue;
    }
    ParsedFile parsed = parse(decoder, file.path, *text);
    log_skipped(file.path, parsed);
    set.put_file(file.path, std::move(parsed));
  }
  ManifestSet::Changes all = set.settle();
  loaded.services = std::move(all.services);
  loaded.slices = std::move(all.slices);
  loaded.nodes = std::move(all.nodes);
  std::ranges::move(set.errors(), std::back_inserter(loaded.errors));
  return loaded;
}

ManifestSource::ManifestSource(event::Loop& loop, api::Sink& sink, ManifestOptions options)
    : loop_(loop), sink_(sink), options_(std::move(options)), set_(options_.allocation) {}

ManifestSource::~ManifestSource() = default;

void ManifestSource::start() {
  load_state();
  rescan_timer_ = loop_.timer([this] { rescan(); });
  poll_timer_ = loop_.timer([this] {
    look_at_all_ = true;
    rescan();
  });
  auto watcher = PathWatcher::open(
      loop_,
      [this](PathWatcher::Change change, const std::string& path) { on_change(change, path); });
  if (watcher) {
    watcher_ = std::move(*watcher);
  } else {
    watch_error_ = problem_at(
        options_.path, "changes are only looked for every few seconds: " + watcher.error().text());
  }
  rescan();
}

std::vector<Problem> ManifestSource::errors() const {
  std::vector<Problem> all;
  for (const auto* error : {&path_error_, &watch_error_, &state_error_}) {
    if (*error) {
      all.push_back(**error);
    }
  }
  std::ranges::move(set_.errors(), std::back_inserter(all));
  return all;
}

void ManifestSource::load_state() {
  Result<Memory> memory = read_state(options_.state_file);
  if (!memory) {
    state_is_foreign_ = true;
    state_error_ = problem_at(options_.state_file, memory.error().text());
    return;
  }
  saved_memory_ = *memory;
  set_ = ManifestSet(options_.allocation, std::move(*memory));
}

void ManifestSource::save_state() {
  if (options_.state_file.empty() || state_is_foreign_ || set_.memory() == saved_memory_) {
    return;
  }
  const Status written =
      write_atomically(options_.state_file,
                       "# Addresses and ports that were given to services. Written by the "
                       "daemon; delete to forget.\n" +
                           set_.memory().text());
  if (written) {
    saved_memory_ = set_.memory();
    state_error_.reset();
  } else {
    state_error_ = problem_at(options_.state_file, written.error().text());
  }
}

void ManifestSource::on_change(PathWatcher::Change change, const std::string& path) {
  if (!is_relevant(change, path)) {
    return;
  }
  switch (change) {
    case PathWatcher::Change::kLost:
      look_at_all_ = true;
      break;
    case PathWatcher::Change::kWriting:
      writing_since_[path] = loop_.now();
      break;
    case PathWatcher::Change::kWritten:
    case PathWatcher::Change::kEntry:
      writing_since_.erase(path);
      changed_.insert(path);
      break;
  }
  schedule();
}

/// A log file that grows beside the manifests is none of our business.
bool ManifestSource::is_relevant(PathWatcher::Change change, const std::string& path) const {
  if (change == PathWatcher::Change::kEntry || change == PathWatcher::Change::kLost ||
      real_directory_.empty() || !path.starts_with(real_directory_ + "/")) {
    return true;
  }
  return is_manifest_name(std::string_view(path).substr(path.rfind('/') + 1)) ||
         link_targets_.contains(path);
}

void ManifestSource::schedule() {
  if (!first_change_) {
    first_change_ = loop_.now();
  }
  if (!rescan_timer_->active() || loop_.now() - *first_change_ < options_.settle_at_most) {
    rescan_timer_->start(options_.settle);
  }
}

void ManifestSource::drain() {
  if (watcher_) {
    watcher_->drain();
  }
}

// The order matters. Watches come before looking, so that no change falls between. Files are read
// before the events are drained a second time, so that a file caught in the middle of an edit (just
// truncated, say) is known as such before its content counts.
void ManifestSource::rescan() {
  drain();
  rescan_timer_->stop();
  first_change_.reset();
  forget_old_writers();
  watch();
  const Result<std::vector<ListedFile>> files = list_manifests(options_.path);
  if (!files) {
    path_error_ = problem_at(
        options_.path, files.error().text() + (synced_ ? "; what was read from it stays in force"
                                                       : "; nothing starts before it is "
                                                         "there"));
    finish_rescan();
    return;
  }
  path_error_.reset();
  look_through(*files);
  std::vector<Fresh> fresh = read_changed(*files);
  drain();
  bool put_off = false;
  for (Fresh& file : fresh) {
    const std::string& path = file.file->real_path;
    if (!file.text && file.text.error().kind() == ErrorKind::kUnavailable) {
      writing_since_.emplace(path, loop_.now());
    }
    if (writing_since_.contains(path) || changed_.contains(path)) {
      known_[file.file->path].signature.reset();
      put_off = true;
    } else {
      take(file);
    }
    file.text = std::string();  // all texts at once weigh as much as what is made of them
  }
  drop_missing(*files);
  // A service that is missing from the first delivery is removed from the kernel.
  constexpr int kMaxFirstTries = 20;
  if (synced_ || !put_off || ++first_tries_ > kMaxFirstTries) {
    deliver();
  }
  finish_rescan();
}

/// Notes where the files are, and watches links found for the first time.
void ManifestSource::look_through(const std::vector<ListedFile>& files) {
  const std::set<std::string> old_links = std::exchange(links_, {});
  const std::set<std::string> old_targets = std::exchange(link_targets_, {});
  real_directory_.clear();
  for (const ListedFile& file : files) {
    if (file.is_link) {
      links_.insert(file.path);
      link_targets_.insert(file.real_path);
    } else if (file.path != options_.path) {
      real_directory_ = file.real_path.substr(0, file.real_path.rfind('/'));
    }
  }
  if (links_ != old_links || link_targets_ != old_targets) {
    watch();
  }
}

void ManifestSource::watch() {
  if (!watcher_) {
    return;
  }
  std::vector<std::string> paths(links_.begin(), links_.end());
  paths.push_back(options_.path);
  const Status status = watcher_->watch(paths);
  watch_error_.reset();
  if (!status) {
    watch_error_ = problem_at(
        options_.path, "changes are only looked for every few seconds: " + status.error().text());
  }
}

/// Who rests for long without closing is taken as done.
void ManifestSource::forget_old_writers() {
  for (auto writer = writing_since_.begin(); writer != writing_since_.end();) {
    if (loop_.now() - writer->second >= options_.patience) {
      changed_.insert(writer->first);
      writer = writing_since_.erase(writer);
    } else {
      ++writer;
    }
  }
}

std::vector<ManifestSource::Fresh> ManifestSource::read_changed(
    const std::vector<ListedFile>& files) {
  const std::set<std::string> changed = std::exchange(changed_, {});
  const bool look_at_all = std::exchange(look_at_all_, false);
  has_unreadable_ = false;
  std::vector<Fresh> fresh;
  for (const ListedFile& file : files) {
    const auto known = known_.find(file.path);
    if (look_at_all || known == known_.end() || known->second.signature != file.signature ||
        changed.contains(file.real_path)) {
      const bool is_open = writing_since_.contains(file.real_path);
      fresh.push_back({&file, is_open ? fail(ErrorKind::kUnavailable, "is being written to")
                                      : read_manifest(file.path)});
    }
  }
  return fresh;
}

void ManifestSource::take(Fresh& fresh) {
  const std::string& path = fresh.file->path;
  Known& known = known_[path];
  if (!fresh.text) {
    known = Known{};
    has_unreadable_ = true;
    set_.fail_file(path, fresh.text.error().text());
    return;
  }
  known.signature = fresh.file->signature;
  const std::size_t hash = std::hash<std::string>{}(*fresh.text);
  if (known.content_hash == hash) {
    return;
  }
  known.content_hash = hash;
  ParsedFile parsed = parse(decoder_, path, *fresh.text);
  log_skipped(path, parsed);
  set_.put_file(path, std::move(parsed));
}

void ManifestSource::drop_missing(const std::vector<ListedFile>& files) {
  std::erase_if(known_, [&](const auto& item) {
    const auto found = std::ranges::lower_bound(files, item.first, {}, &ListedFile::path);
    if (found != files.end() && found->path == item.first) {
      return false;
    }
    set_.erase_file(item.first);
    return true;
  });
}

void ManifestSource::deliver() {
  constexpr std::array kKinds = {api::Kind::kService, api::Kind::kEndpointSlice, api::Kind::kNode};
  ManifestSet::Changes changes = set_.settle();
  const bool is_first = !std::exchange(synced_, true);
  if (changes.empty() && !is_first) {
    return;
  }
  if (is_first) {
    std::ranges::for_each(kKinds, [&](api::Kind kind) { sink_.replace_begin(kind); });
  }
  for (auto& service : changes.services) {
    sink_.put(std::move(service));
  }
  for (auto& slice : changes.slices) {
    sink_.put(std::move(slice));
  }
  for (const auto& node : changes.nodes) {
    sink_.put(*node);
  }
  for (const auto& [kind, key] : changes.erased) {
    sink_.erase(kind, key);
  }
  if (is_first) {
    std::ranges::for_each(kKinds, [&](api::Kind kind) { sink_.replace_end(kind); });
  }
  save_state();
  sink_.flush();
}

void ManifestSource::finish_rescan() {
  if (!writing_since_.empty() && !rescan_timer_->active()) {
    rescan_timer_->start(options_.patience);
  }
  if (!watcher_ || watch_error_ || path_error_ || has_unreadable_ || state_error_) {
    poll_timer_->start(options_.poll);
  }
  log_errors();
}

void ManifestSource::log_errors() {
  std::set<std::string> now;
  for (const Problem& problem : errors()) {
    const std::string text = problem.text();
    if (now.insert(text).second && !logged_.contains(text)) {
      log::error("manifest is wrong", {{"error", text}});
    }
  }
  for (const std::string& text : logged_) {
    if (!now.contains(text)) {
      log::info("manifest is mended", {{"was", text}});
    }
  }
  logged_ = std::move(now);
}

}  // namespace fairlead::manifest
