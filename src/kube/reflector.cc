// SPDX-License-Identifier: Apache-2.0
#include "kube/reflector.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/log.h"
#include "base/text.h"

namespace fairlead::kube {
namespace {

constexpr std::size_t kMaxErrorBody = 64UL * 1024;
constexpr std::size_t kMaxPage = 1024UL * 1024 * 1024;
constexpr std::size_t kMaxWatchObject = 64UL * 1024 * 1024;
constexpr event::Duration kWarnEvery = std::chrono::seconds(60);

Failure failure(Failure::Kind kind, std::string text) {
  Failure made;
  made.kind = kind;
  made.text = std::move(text);
  return made;
}

Failure failure(const TransportError& error) {
  switch (error.kind) {
    case TransportError::Kind::kUnreachable:
    case TransportError::Kind::kUntrusted:
    case TransportError::Kind::kInvalid:
      return failure(Failure::Kind::kUnreachable, error.text);
    case TransportError::Kind::kTimeout:
      return failure(Failure::Kind::kTimeout, error.text);
    case TransportError::Kind::kBroken:
      return failure(Failure::Kind::kBroken, error.text);
  }
  return failure(Failure::Kind::kBroken, error.text);
}

/// The key in a DecodeError's object, `Service shop/web` or `Node one`, as far as it is there.
std::optional<api::ObjectKey> key_in(std::string_view object) {
  const std::size_t blank = object.find(' ');
  if (blank == std::string_view::npos || blank + 1 == object.size()) {
    return std::nullopt;
  }
  const std::string_view text = object.substr(blank + 1);
  const std::size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return api::ObjectKey{"", std::string(text)};
  }
  return api::ObjectKey{std::string(text.substr(0, slash)), std::string(text.substr(slash + 1))};
}

/// Selector and labels are for the controllers; the one label that is read hands the service to
/// another proxy. What is dropped costs no memory, and its change makes nothing dirty.
void keep_what_is_read(api::Service& service) {
  std::erase_if(service.meta.labels, [](const auto& label) {
    return label.first != "service.kubernetes.io/service-proxy-name";
  });
  service.selector.clear();
}

std::int64_t in_ms(event::Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

}  // namespace

Reflector::Reflector(Shared& shared, Resource resource, ListWatchOptions options)
    : shared_(shared),
      list_watch_(std::move(resource), options),
      next_(shared.loop.timer([this] { fire(); })),
      silence_(shared.loop.timer([this] { on_silence(); })),
      frames_(kMaxWatchObject) {
  status_.kind = list_watch_.resource().kind;
  status_.path = list_watch_.path();
  status_.since = shared.loop.now();
}

Reflector::~Reflector() = default;

void Reflector::start() {
  if (!running_) {
    running_ = true;
    follow(list_watch_.begin());
  }
}

void Reflector::stop() {
  running_ = false;
  exchange_.reset();
  next_->stop();
  silence_->stop();
  retry_at_.reset();
  listed_.clear();
  broken_.clear();
  set_watching(false);
}

void Reflector::hurry() {
  if (!retry_at_) {
    return;
  }
  // Spread, because every node of the cluster has just noticed the same.
  const auto soon =
      std::chrono::duration_cast<event::Duration>(std::chrono::duration<double>(shared_.random()));
  if (shared_.loop.now() + soon < *retry_at_) {
    retry_at_.reset();
    next_->start(soon);
  }
}

void Reflector::follow(const Step& step) {
  exchange_.reset();
  silence_->stop();
  if (step.deliver_list) {
    deliver_list();
  }
  if (step.drop_list) {
    listed_.clear();
    broken_.clear();
  }
  prepared_ = false;
  reserved_ = false;
  next_->start(step.delay);
}

void Reflector::fire() {
  retry_at_.reset();
  if (!std::exchange(prepared_, true)) {
    request_ = list_watch_.request(shared_.random());
    status_.path = list_watch_.path();
  }
  if (request_.first_page && !reserved_) {
    reserved_ = true;
    const event::Duration turn = shared_.limiter.reserve(shared_.loop.now());
    if (turn > event::Duration::zero()) {
      next_->start(turn);
      return;
    }
  }
  send();
}

void Reflector::send() {
  head_ = {};
  body_.clear();
  frames_ = JsonFrames(kMaxWatchObject);
  failure_.reset();
  last_byte_ = shared_.loop.now();
  exchange_ = shared_.transport.get(
      request_.http,
      HttpHandler{
          .on_head = [this](const HttpHead& head) { on_head(head); },
          .on_data = [this](std::string_view bytes) { on_data(bytes); },
          .on_end = [this](const std::optional<TransportError>& error) { on_end(error); },
      });
  patience_ = event::Duration::zero();
  if (request_.watch) {
    watch_silence();
  }
}

void Reflector::watch_silence() {
  if (patience_ != list_watch_.silence_limit()) {
    patience_ = list_watch_.silence_limit();
    silence_->start(patience_);
  }
}

void Reflector::on_head(const HttpHead& head) {
  head_ = head;
  last_byte_ = shared_.loop.now();
  if (head.status != 200) {
    return;
  }
  if (std::exchange(troubled_, false) && shared_.on_recovered) {
    shared_.on_recovered();
  }
  if (!request_.watch) {
    return;
  }
  list_watch_.watch_opened(shared_.loop.now());
  watch_silence();
  ++status_.watches;
  set_watching(true);
}

void Reflector::on_data(std::string_view bytes) {
  last_byte_ = shared_.loop.now();
  if (head_.status != 200) {
    body_ += bytes.substr(0, kMaxErrorBody - std::min(kMaxErrorBody, body_.size()));
    return;
  }
  if (!request_.watch) {
    if (body_.size() + bytes.size() > kMaxPage) {
      failed(failure(Failure::Kind::kMalformed, "the list is larger than 1 GiB"));
      return;
    }
    body_ += bytes;
    return;
  }
  const std::uint64_t before = status_.events;
  const bool readable =
      frames_.feed(bytes, [this](std::string_view json) { return on_watch_object(json); });
  if (!readable && !failure_) {
    failure_ = failure(Failure::Kind::kMalformed, "the watch is not a stream of JSON objects");
  }
  if (status_.events != before) {
    shared_.sink.flush();
  }
  if (failure_) {
    failed(*failure_);
    return;
  }
  // The first bookmark shortens the patience of the running watch too.
  watch_silence();
}

void Reflector::on_end(const std::optional<TransportError>& error) {
  if (head_.status != 0 && head_.status != 200) {
    failed(status_failure());
    return;
  }
  if (error) {
    failed(failure(*error));
    return;
  }
  if (!request_.watch) {
    on_list_end();
    return;
  }
  const Step step = list_watch_.watch_closed(shared_.loop.now(), shared_.random());
  if (step.delay > event::Duration::zero()) {
    report(failure(Failure::Kind::kBroken, "the watch ended at once"), step);
    return;
  }
  log::debug("API watch ended", {{"kind", api::text(status_.kind)}, {"events", status_.events}});
  follow(step);
}

void Reflector::on_list_end() {
  const tl::expected<api::ListPage, api::DecodeError> page = shared_.decoder.decode_list(
      body_, [this](tl::expected<api::Decoded, api::DecodeError> decoded) {
        if (!decoded) {
          undecodable(decoded.error());
          if (std::optional<api::ObjectKey> key = key_in(decoded.error().object)) {
            broken_.insert(std::move(*key));
          }
        } else if (key_of(decoded->object)) {
          listed_.push_back(std::move(decoded->object));
        }
      });
  // A page of a large cluster is megabytes, and the next list may be days away.
  body_.clear();
  body_.shrink_to_fit();
  if (!page) {
    failed(failure(Failure::Kind::kMalformed, page.error().text()));
    return;
  }
  if (page->resource_version.empty()) {
    failed(failure(Failure::Kind::kMalformed, "the list has no resourceVersion"));
    return;
  }
  follow(list_watch_.page(shared_.loop.now(), shared_.random(), page->resource_version,
                          page->continue_token));
}

void Reflector::on_silence() {
  const event::Duration silent = shared_.loop.now() - last_byte_;
  if (silent < patience_) {
    silence_->start(patience_ - silent);
    return;
  }
  exchange_->distrust_connection();
  const bool opened = head_.status == 200;
  failed(failure(opened ? Failure::Kind::kSilent : Failure::Kind::kTimeout,
                 "nothing heard for " + std::to_string(in_ms(silent) / 1000) + " s"));
}

bool Reflector::on_watch_object(std::string_view json) {
  tl::expected<api::WatchEvent, api::DecodeError> event = shared_.decoder.decode_watch_event(json);
  if (!event) {
    ++status_.events;
    undecodable(event.error());
    list_watch_.watch_event({});
    return true;
  }
  switch (event->type) {
    case api::WatchEvent::Type::kError:
      failure_ = failure(Failure::Kind::kStatus, event->status_message);
      failure_->status = event->status_code;
      return false;
    case api::WatchEvent::Type::kBookmark:
      list_watch_.watch_bookmark(event->resource_version);
      return true;
    case api::WatchEvent::Type::kAdded:
    case api::WatchEvent::Type::kModified:
    case api::WatchEvent::Type::kDeleted:
      ++status_.events;
      list_watch_.watch_event(event->resource_version);
      apply(std::move(*event));
      return true;
  }
  return true;
}

void Reflector::apply(api::WatchEvent event) {
  api::Decoded* decoded = event.decoded ? &*event.decoded : nullptr;
  const std::optional<api::ObjectKey> key =
      decoded != nullptr ? key_of(decoded->object) : std::nullopt;
  if (!key) {
    return;
  }
  if (event.type == api::WatchEvent::Type::kDeleted) {
    known_.erase(*key);
    shared_.sink.erase(status_.kind, *key);
    return;
  }
  known_.insert(*key);
  put(std::move(decoded->object));
}

void Reflector::failed(const Failure& failure) {
  const event::TimePoint now = shared_.loop.now();
  report(failure, request_.watch ? list_watch_.watch_failed(now, shared_.random(), failure)
                                 : list_watch_.list_failed(now, shared_.random(), failure));
}

void Reflector::report(const Failure& failure, const Step& step) {
  const bool watch = request_.watch;
  const event::TimePoint now = shared_.loop.now();
  ++status_.failures;
  troubled_ = true;
  // What goes on at once is nothing to tell an operator: a watch that the server ends some other
  // way than cleanly, an API version that it does not know.
  const bool at_once =
      step.delay == event::Duration::zero() && failure.kind != Failure::Kind::kSilent;
  const std::pair now_wrong{failure.kind, failure.status};
  const bool warn =
      !at_once && (wrong_ != now_wrong || !warned_at_ || now - *warned_at_ >= kWarnEvery);
  if (warn) {
    wrong_ = now_wrong;
    warned_at_ = now;
  }
  log::write(warn ? log::Level::kWarn : log::Level::kDebug,
             watch ? "API watch failed" : "API list failed",
             {{"kind", api::text(status_.kind)},
              {"error", failure.text},
              {"status", failure.status},
              {"next", step.action == Step::Action::kWatch ? "watch" : "list"},
              {"in_ms", in_ms(step.delay)}});
  if (!(at_once && watch)) {
    status_.last_error = failure.text;
    set_watching(false);
  }
  follow(step);
  if (!at_once && !failure.retry_after) {
    retry_at_ = now + step.delay;
  }
}

void Reflector::deliver_list() {
  ++status_.lists;
  log::info("API list", {{"kind", api::text(status_.kind)},
                         {"objects", listed_.size()},
                         {"path", list_watch_.path()},
                         {"resource_version", list_watch_.resource_version()}});
  Keys now_known;
  now_known.reserve(listed_.size());
  // An unreadable object is there, so its last good version must outlive the list. The sink's
  // replacing would sweep it; then the difference is spelt out.
  const bool replace = !status_.synced || broken_.empty();
  if (replace) {
    shared_.sink.replace_begin(status_.kind);
  }
  for (api::AnyObject& object : listed_) {
    if (std::optional<api::ObjectKey> key = key_of(object)) {
      now_known.insert(std::move(*key));
      put(std::move(object));
    }
  }
  if (replace) {
    shared_.sink.replace_end(status_.kind);
  } else {
    for (const api::ObjectKey& key : known_) {
      if (broken_.contains(key)) {
        now_known.insert(key);
      } else if (!now_known.contains(key)) {
        shared_.sink.erase(status_.kind, key);
      }
    }
  }
  known_ = std::move(now_known);
  listed_.clear();
  listed_.shrink_to_fit();
  broken_.clear();
  status_.synced = true;
  shared_.sink.flush();
}

void Reflector::set_watching(bool watching) {
  if (watching) {
    status_.last_error.clear();
    warned_at_.reset();
  }
  if (status_.watching == watching) {
    return;
  }
  const event::TimePoint now = shared_.loop.now();
  if (watching) {
    log::info("API watch established", {{"kind", api::text(status_.kind)},
                                        {"path", list_watch_.path()},
                                        {"away_ms", in_ms(now - status_.since)}});
  }
  status_.watching = watching;
  status_.since = now;
}

void Reflector::undecodable(const api::DecodeError& error) {
  ++status_.undecodable;
  const std::string text = error.text();
  log::write(text == complaint_ ? log::Level::kDebug : log::Level::kError,
             "API object not usable, its last good version stays in force",
             {{"kind", api::text(status_.kind)}, {"error", text}});
  complaint_ = text;
}

std::optional<api::ObjectKey> Reflector::key_of(const api::AnyObject& object) const {
  switch (status_.kind) {
    case api::Kind::kService:
      if (const auto* service = std::get_if<api::Service>(&object)) {
        return service->meta.key;
      }
      break;
    case api::Kind::kEndpointSlice:
      if (const auto* slice = std::get_if<api::EndpointSlice>(&object)) {
        return slice->meta.key;
      }
      break;
    case api::Kind::kNode:
      if (const auto* node = std::get_if<api::Node>(&object)) {
        return node->meta.key;
      }
      break;
  }
  return std::nullopt;
}

void Reflector::put(api::AnyObject object) {
  std::visit(
      [this](auto&& value) {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, api::Service>) {
          keep_what_is_read(value);
        }
        if constexpr (std::is_same_v<T, api::Service> || std::is_same_v<T, api::EndpointSlice>) {
          shared_.sink.put(std::make_shared<const T>(std::forward<decltype(value)>(value)));
        } else if constexpr (std::is_same_v<T, api::Node>) {
          shared_.sink.put(std::forward<decltype(value)>(value));
        }
      },
      std::move(object));
}

Failure Reflector::status_failure() {
  Failure made = failure(Failure::Kind::kStatus, "HTTP status " + std::to_string(head_.status));
  made.status = head_.status;
  made.retry_after = head_.retry_after;
  // An API server explains itself with a Status object, which is what an ERROR event holds. What
  // a proxy in between says may be anything and is left out.
  if (trim(body_).starts_with('{')) {
    const auto event =
        shared_.decoder.decode_watch_event(R"({"type":"ERROR","object":)" + body_ + "}");
    if (event && event->type == api::WatchEvent::Type::kError && !event->status_message.empty()) {
      made.text += ": " + event->status_message;
    }
  }
  body_.clear();
  return made;
}

}  // namespace fairlead::kube
