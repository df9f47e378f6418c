// SPDX-License-Identifier: Apache-2.0
// The decisions of list and watch: what to ask next, and when. Pure: no I/O, no clock, no dice;
// the Reflector does what it says and reports back what came.
//
// Lists are asked for without a resourceVersion, in pages. With resourceVersion=0 the server would
// answer from its cache in one piece whatever the limit: old state, possibly older than what a
// former run of ours programmed into the kernel, and an answer as large as the cluster. Without,
// memory is bounded by a page and the result is current; servers from 1.31 on serve it from their
// cache too. The jitter of the backoff spreads relists, and one never follows a watch that merely
// ended.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/sink.h"
#include "event/loop.h"
#include "kube/pace.h"
#include "kube/transport.h"

namespace fairlead::kube {

/// One kind of object at the API server.
struct Resource {
  api::Kind kind = api::Kind::kService;
  /// `/apis/discovery.k8s.io/v1/endpointslices`; the next one is tried where a server answers 404.
  std::vector<std::string> paths;
  std::string label_selector;
  std::string field_selector;
};

struct ListWatchOptions {
  unsigned page_size = 500;
  event::Duration page_deadline = std::chrono::seconds(60);
  /// Watches ask the server to end them after a random time from this to twice this.
  std::chrono::seconds watch_time{300};
  /// Without an answer's head for so long a watch has not begun.
  event::Duration head_limit = std::chrono::seconds(60);
  /// Servers send bookmarks about once a minute. After the first one, silence beyond this means
  /// that nobody is there; before, only the watch's own end is a promise.
  event::Duration silence_limit = std::chrono::seconds(100);
  event::Duration silence_margin = std::chrono::seconds(30);
};

/// Why a list or watch did not go on.
struct Failure {
  enum class Kind {
    kUnreachable,  // no connection
    kBroken,       // the connection ended in between
    kTimeout,      // no answer in time
    kSilent,       // a running watch from which nothing comes any more
    kStatus,       // `status`: an HTTP status, or that of an ERROR event
    kMalformed,    // not what an API server says
  };
  Kind kind = Kind::kBroken;
  int status = 0;
  std::optional<std::chrono::seconds> retry_after;
  std::string text;
};

struct Step {
  enum class Action { kList, kWatch };
  Action action = Action::kList;
  event::Duration delay{};  // to wait before
  /// The pages so far are the whole list: deliver it first.
  bool deliver_list = false;
  /// The pages so far are worth nothing any more.
  bool drop_list = false;
};

/// The next request after a Step.
struct ListWatchRequest {
  HttpRequest http;
  bool watch = false;
  bool first_page = false;
};

class ListWatch {
 public:
  ListWatch(Resource resource, ListWatchOptions options);

  /// `random` is in [0, 1) throughout.
  [[nodiscard]] Step begin();
  [[nodiscard]] ListWatchRequest request(double random);

  [[nodiscard]] Step page(event::TimePoint now, double random, std::string_view resource_version,
                          std::string_view continue_token);
  [[nodiscard]] Step list_failed(event::TimePoint now, double random, const Failure& failure);

  void watch_opened(event::TimePoint now);
  /// An object event; `resource_version` is empty for one that could not be read, which leaves
  /// the place in the stream as it was.
  void watch_event(std::string_view resource_version);
  void watch_bookmark(std::string_view resource_version);
  [[nodiscard]] Step watch_closed(event::TimePoint now, double random);
  [[nodiscard]] Step watch_failed(event::TimePoint now, double random, const Failure& failure);

  /// How long the running watch may say nothing.
  [[nodiscard]] event::Duration silence_limit() const;
  [[nodiscard]] const Resource& resource() const { return resource_; }
  [[nodiscard]] const std::string& path() const { return resource_.paths[path_]; }
  [[nodiscard]] const std::string& resource_version() const { return resource_version_; }

 private:
  [[nodiscard]] Step relist(event::Duration delay);
  [[nodiscard]] Step rewatch(event::Duration delay) const;
  [[nodiscard]] Step resume(event::TimePoint now, double random);
  [[nodiscard]] event::Duration wait(event::TimePoint now, double random, const Failure* failure);

  Resource resource_;
  ListWatchOptions options_;
  Backoff backoff_;
  Backoff gone_backoff_;  // 410 is no trouble of the server's, and must not wait as if it were
  bool refused_ = false;  // 401, and no success since

  std::size_t path_ = 0;
  std::size_t paths_tried_ = 0;  // in this round of 404s

  std::string continue_token_;
  bool paged_ = true;
  unsigned page_failures_ = 0;
  bool watching_ = false;  // the next request is a watch

  std::string resource_version_;
  std::chrono::seconds watch_time_{};
  std::optional<event::TimePoint> opened_;
  bool any_event_ = false;        // the running watch brought us further
  bool bookmarks_seen_ = false;   // this server sends them
  unsigned silent_in_a_row_ = 0;  // watches
};

/// RFC 3986: everything but unreserved characters as %XX.
[[nodiscard]] std::string percent_encode(std::string_view text);

}  // namespace fairlead::kube
