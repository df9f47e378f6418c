// SPDX-License-Identifier: Apache-2.0
// Keeps one kind of object in a Sink equal to what the API server has: the doing to ListWatch's
// deciding. Of the loop's thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include "api/decode.h"
#include "api/sink.h"
#include "event/loop.h"
#include "kube/json_frames.h"
#include "kube/list_watch.h"
#include "kube/pace.h"
#include "kube/transport.h"

namespace fairlead::kube {

struct ReflectorStatus {
  api::Kind kind = api::Kind::kService;
  std::string path;           // asked at the moment
  bool synced = false;        // a whole list was delivered
  bool watching = false;      // a watch is open, so the sink is current
  event::TimePoint since;     // of the last change of `watching`
  std::string last_error;     // empty while all is well
  std::uint64_t lists = 0;    // whole ones
  std::uint64_t watches = 0;  // opened
  std::uint64_t events = 0;
  std::uint64_t failures = 0;
  std::uint64_t undecodable = 0;  // objects; their last good version stays in force
};

class Reflector {
 public:
  /// What several reflectors share; outlives them.
  struct Shared {
    event::Loop& loop;
    Transport& transport;
    api::Decoder& decoder;
    api::Sink& sink;
    RateLimiter& limiter;                // lists take a place, their later pages and watches do not
    std::function<double()> random;      // in [0, 1)
    std::function<void()> on_recovered;  // one of them gets answers again after a failure
  };

  Reflector(Shared& shared, Resource resource, ListWatchOptions options);
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;
  ~Reflector();

  void start();
  /// Ends what runs; the sink keeps what it has. May be started again, which lists anew.
  void stop();
  /// The server answers others again: a wait after a failure ends within a second.
  void hurry();
  [[nodiscard]] const ReflectorStatus& status() const { return status_; }

 private:
  /// An object of the list under way, or of the one before.
  using Keys = std::unordered_set<api::ObjectKey>;

  void follow(const Step& step);
  void fire();
  void send();
  void on_head(const HttpHead& head);
  void on_data(std::string_view bytes);
  void on_end(const std::optional<TransportError>& error);
  void on_list_end();
  void on_silence();
  /// False: the watch is over, `failure_` says why.
  bool on_watch_object(std::string_view json);
  void apply(api::WatchEvent event);
  void failed(const Failure& failure);
  void report(const Failure& failure, const Step& step);
  /// Arms the silence timer if the patience we should have is another one now.
  void watch_silence();
  void deliver_list();
  void set_watching(bool watching);
  void undecodable(const api::DecodeError& error);
  /// The key if the object is of our kind.
  [[nodiscard]] std::optional<api::ObjectKey> key_of(const api::AnyObject& object) const;
  void put(api::AnyObject object);
  [[nodiscard]] Failure status_failure();

  Shared& shared_;
  ListWatch list_watch_;
  ReflectorStatus status_;

  std::unique_ptr<event::Timer> next_;     // the next request
  std::unique_ptr<event::Timer> silence_;  // of the running watch
  ListWatchRequest request_;
  bool prepared_ = false;  // `request_` is the one to send next
  std::unique_ptr<HttpExchange> exchange_;
  HttpHead head_;
  std::string body_;  // of a page, or of an error
  JsonFrames frames_;
  std::optional<Failure> failure_;
  event::TimePoint last_byte_;
  event::Duration patience_{};  // with the silence of the running watch
  bool running_ = false;
  std::optional<event::TimePoint> retry_at_;  // waiting after a failure, and free to come earlier
  bool troubled_ = false;                     // failed, and no answer since
  bool reserved_ = false;                     // the waiting list has its place at the limiter

  std::deque<api::AnyObject> listed_;
  Keys broken_;  // keys in the list whose objects could not be read
  Keys known_;   // what the sink has from us

  std::string complaint_;  // the last undecodable object
  std::optional<event::TimePoint> warned_at_;
  std::optional<std::pair<Failure::Kind, int>> wrong_;  // what we warned of
};

}  // namespace fairlead::kube
