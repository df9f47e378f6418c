// SPDX-License-Identifier: Apache-2.0
#include "kube/list_watch.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/check.h"

namespace fairlead::kube {
namespace {

/// A watch that ends sooner and brought no object is a failure, or we would ask in a tight circle.
constexpr event::Duration kShortWatch = std::chrono::seconds(1);
constexpr unsigned kPageTries = 5;
/// A server may ask for patience, but not put us to sleep.
constexpr std::chrono::seconds kMaxRetryAfter{60};
/// A second silent watch in a row is not about the connection. Seen when etcd was restored from a
/// backup: a watch at a version of the lost future hears nothing, for ever.
constexpr unsigned kSilentWatches = 2;

}  // namespace

std::string percent_encode(std::string_view text) {
  constexpr std::string_view kHex = "0123456789ABCDEF";
  std::string encoded;
  encoded.reserve(text.size());
  for (const char c : text) {
    const bool unreserved = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                            (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_' || c == '~';
    if (unreserved) {
      encoded += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      encoded += '%';
      encoded += kHex[byte >> 4U];
      encoded += kHex[byte & 0x0fU];
    }
  }
  return encoded;
}

ListWatch::ListWatch(Resource resource, ListWatchOptions options)
    : resource_(std::move(resource)), options_(options) {
  FAIRLEAD_CHECK(!resource_.paths.empty());
}

Step ListWatch::begin() { return relist(event::Duration::zero()); }

ListWatchRequest ListWatch::request(double random) {
  ListWatchRequest made;
  made.watch = watching_;
  std::string query;
  const auto add = [&query](std::string_view name, std::string_view value) {
    query += query.empty() ? '?' : '&';
    query += name;
    query += '=';
    query += percent_encode(value);
  };
  if (!resource_.label_selector.empty()) {
    add("labelSelector", resource_.label_selector);
  }
  if (!resource_.field_selector.empty()) {
    add("fieldSelector", resource_.field_selector);
  }
  if (watching_) {
    const double share = 1.0 + std::clamp(random, 0.0, 1.0);
    watch_time_ = std::chrono::seconds(
        std::llround(static_cast<double>(options_.watch_time.count()) * share));
    opened_.reset();
    any_event_ = false;
    add("watch", "1");
    add("resourceVersion", resource_version_);
    add("allowWatchBookmarks", "true");
    add("timeoutSeconds", std::to_string(watch_time_.count()));
  } else {
    made.first_page = continue_token_.empty();
    made.http.deadline = options_.page_deadline;
    if (paged_) {
      add("limit", std::to_string(options_.page_size));
    }
    if (!continue_token_.empty()) {
      add("continue", continue_token_);
    }
  }
  made.http.target = path() + query;
  return made;
}

Step ListWatch::page(event::TimePoint now, double random, std::string_view resource_version,
                     std::string_view continue_token) {
  if (resource_version.empty() || (!continue_token.empty() && continue_token == continue_token_)) {
    Failure failure;
    failure.kind = Failure::Kind::kMalformed;
    return list_failed(now, random, failure);
  }
  page_failures_ = 0;
  paths_tried_ = 0;
  refused_ = false;
  continue_token_ = continue_token;
  if (!continue_token.empty()) {
    return Step{Step::Action::kList, {}, false, false};
  }
  resource_version_ = resource_version;
  paged_ = true;
  watching_ = true;
  Step step = rewatch(event::Duration::zero());
  step.deliver_list = true;
  return step;
}

Step ListWatch::list_failed(event::TimePoint now, double random, const Failure& failure) {
  const bool later_page = !continue_token_.empty();
  switch (failure.kind) {
    case Failure::Kind::kUnreachable:
    case Failure::Kind::kBroken:
    case Failure::Kind::kTimeout:
    case Failure::Kind::kSilent:
      break;
    case Failure::Kind::kMalformed:
      return relist(wait(now, random, &failure));
    case Failure::Kind::kStatus:
      if (failure.status == 404 && ++paths_tried_ < resource_.paths.size()) {
        path_ = (path_ + 1) % resource_.paths.size();
        return relist(event::Duration::zero());
      }
      if (failure.status == 404) {
        path_ = 0;
        paths_tried_ = 0;
        return relist(wait(now, random, &failure));
      }
      if (failure.status == 410 && later_page) {
        // Our pages are slower than the server forgets: then all at once.
        Step step = relist(event::Duration::zero());
        paged_ = false;
        return step;
      }
      if (failure.status != 429 && failure.status < 500) {
        return relist(wait(now, random, &failure));
      }
      break;
  }
  // All pages show one snapshot, so the same page can be asked for again.
  if (later_page && ++page_failures_ < kPageTries) {
    return Step{Step::Action::kList, wait(now, random, &failure), false, false};
  }
  return relist(wait(now, random, &failure));
}

void ListWatch::watch_opened(event::TimePoint now) {
  opened_ = now;
  refused_ = false;
}

void ListWatch::watch_event(std::string_view resource_version) {
  silent_in_a_row_ = 0;
  if (!resource_version.empty()) {
    any_event_ = true;
    resource_version_ = resource_version;
  }
}

void ListWatch::watch_bookmark(std::string_view resource_version) {
  silent_in_a_row_ = 0;
  bookmarks_seen_ = true;
  if (!resource_version.empty()) {
    resource_version_ = resource_version;
  }
}

Step ListWatch::watch_closed(event::TimePoint now, double random) { return resume(now, random); }

Step ListWatch::watch_failed(event::TimePoint now, double random, const Failure& failure) {
  switch (failure.kind) {
    case Failure::Kind::kUnreachable:
      return rewatch(wait(now, random, &failure));
    case Failure::Kind::kBroken:
    case Failure::Kind::kTimeout:
      return resume(now, random);
    case Failure::Kind::kSilent:
      if (++silent_in_a_row_ >= kSilentWatches) {
        silent_in_a_row_ = 0;
        bookmarks_seen_ = false;
        return relist(wait(now, random, &failure));
      }
      return rewatch(event::Duration::zero());
    case Failure::Kind::kMalformed:
      return relist(wait(now, random, &failure));
    case Failure::Kind::kStatus:
      break;
  }
  switch (failure.status) {
    case 401:  // nothing wrong with our place in the stream; if it grew too old, 410 will say so
    case 403:
    case 429:
    case 502:
    case 503:
      return rewatch(wait(now, random, &failure));
    case 404:
      path_ = 0;
      paths_tried_ = 0;
      return relist(wait(now, random, &failure));
    default:
      return relist(wait(now, random, &failure));
  }
}

event::Duration ListWatch::silence_limit() const {
  if (!opened_) {
    return options_.head_limit;
  }
  const event::Duration until_end = watch_time_ + options_.silence_margin;
  return bookmarks_seen_ ? std::min(options_.silence_limit, until_end) : until_end;
}

Step ListWatch::relist(event::Duration delay) {
  watching_ = false;
  continue_token_.clear();
  paged_ = true;
  page_failures_ = 0;
  return Step{Step::Action::kList, delay, false, true};
}

Step ListWatch::rewatch(event::Duration delay) const {
  return Step{Step::Action::kWatch, delay, false, false};
}

Step ListWatch::resume(event::TimePoint now, double random) {
  const bool of_use = opened_ && (any_event_ || now - *opened_ >= kShortWatch);
  return rewatch(of_use ? event::Duration::zero() : wait(now, random, nullptr));
}

event::Duration ListWatch::wait(event::TimePoint now, double random, const Failure* failure) {
  const bool status = failure != nullptr && failure->kind == Failure::Kind::kStatus;
  if (status && failure->status == 401 && !std::exchange(refused_, true)) {
    return event::Duration::zero();  // the transport has a newer token, perhaps
  }
  Backoff& backoff = status && failure->status == 410 ? gone_backoff_ : backoff_;
  event::Duration delay = backoff.next(now, random);
  if (failure != nullptr && failure->retry_after) {
    delay = std::max<event::Duration>(delay, std::min(*failure->retry_after, kMaxRetryAfter));
  }
  return delay;
}

}  // namespace fairlead::kube
