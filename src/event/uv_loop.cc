// SPDX-License-Identifier: Apache-2.0
// libuv closes handles asynchronously: their memory must live until the close callback. So each of
// our objects only points to a state on the heap, which holds the libuv handle and the user's
// function; the object's destructor asks for the close, and the close callback frees the state.
// That also keeps a function alive that destroys its own handle.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <uv.h>
#include <vector>

#include "base/check.h"
#include "event/loop.h"

namespace fairlead::event {
namespace {

class Uv;

struct TimerState {
  uv_timer_t handle{};
  Uv* loop = nullptr;
  std::function<void()> on_fire;
  bool immediate = false;  // waits in the loop's list of what is due at once
};

struct FdState {
  uv_poll_t handle{};
  Uv* loop = nullptr;
  std::function<void(FdEvents)> on_event;
  FdEvents interest;
};

struct SignalState {
  uv_signal_t handle{};
  Uv* loop = nullptr;
  std::function<void()> on_signal;
};

class Uv final : public UvLoop {
 public:
  Uv() {
    FAIRLEAD_CHECK(uv_loop_init(&loop_) == 0);
    FAIRLEAD_CHECK(uv_async_init(&loop_, &wake_, [](uv_async_t* handle) {
                     static_cast<Uv*>(handle->data)->run_posted();
                   }) == 0);
    wake_.data = this;
    FAIRLEAD_CHECK(uv_idle_init(&loop_, &turn_) == 0);
    turn_.data = this;
  }
  Uv(const Uv&) = delete;
  Uv& operator=(const Uv&) = delete;
  ~Uv() override {
    dying_ = true;
    // Posted work may own handles of this loop, which have to be closed before it.
    std::vector<std::function<void()>> dropped;
    {
      const std::scoped_lock lock(mutex_);
      dropped.swap(posted_);
    }
    dropped.clear();
    uv_close(as_handle(&wake_), nullptr);
    uv_close(as_handle(&turn_), nullptr);
    // Freeing a state frees its function, which in turn may own handles: hence until none is left.
    do {
      uv_run(&loop_, UV_RUN_NOWAIT);
    } while (closing_ > 0);
    FAIRLEAD_CHECK(uv_loop_close(&loop_) == 0 && "the loop outlives its handles");
  }

  [[nodiscard]] TimePoint now() const override { return std::chrono::steady_clock::now(); }
  [[nodiscard]] std::unique_ptr<Timer> timer(std::function<void()> on_fire) override;
  [[nodiscard]] std::unique_ptr<FdWatch> watch_fd(int fd, FdEvents interest,
                                                  std::function<void(FdEvents)> on_event) override;
  [[nodiscard]] std::unique_ptr<SignalWatch> watch_signal(int signal_number,
                                                          std::function<void()> on_signal) override;

  void post(std::function<void()> work) override {
    const std::scoped_lock lock(mutex_);
    posted_.push_back(std::move(work));
    uv_async_send(&wake_);
  }
  void run() override { uv_run(&loop_, UV_RUN_DEFAULT); }
  void stop() override {
    post([this] { uv_stop(&loop_); });
  }

  [[nodiscard]] uv_loop_t* raw() { return &loop_; }
  [[nodiscard]] bool dying() const { return dying_; }

  /// Fires in the next turn, without the millisecond that libuv's clock would add. Also, libuv
  /// before 1.45 never leaves its timer phase if a timer of 0 ms restarts itself.
  void start_immediate(TimerState* state) {
    if (state->immediate) {
      return;
    }
    state->immediate = true;
    due_now_.push_back(state);
    uv_idle_start(&turn_, [](uv_idle_t* handle) { static_cast<Uv*>(handle->data)->turn(); });
  }
  void stop_immediate(TimerState* state) {
    if (!state->immediate) {
      return;
    }
    state->immediate = false;
    std::erase(due_now_, state);
    std::ranges::replace(firing_, state, static_cast<TimerState*>(nullptr));
  }

  template <typename State>
  void close(State* state) {
    ++closing_;
    uv_close(as_handle(&state->handle), [](uv_handle_t* handle) {
      auto* closed = static_cast<State*>(handle->data);
      Uv* loop = closed->loop;
      delete closed;  // the object that made it gave it up in its destructor
      --loop->closing_;
    });
  }

 private:
  template <typename Handle>
  static uv_handle_t* as_handle(Handle* handle) {
    return reinterpret_cast<uv_handle_t*>(handle);  // libuv's own way of inheritance
  }

  void run_posted() {
    {
      const std::scoped_lock lock(mutex_);
      running_.swap(posted_);
    }
    if (!dying_) {
      for (auto& work : running_) {
        work();
      }
    }
    running_.clear();
  }

  void turn() {
    firing_.swap(due_now_);
    uv_idle_stop(&turn_);
    // Callbacks do not change the list but for blanking entries of timers that they stop.
    for (TimerState*& entry : firing_) {
      if (entry != nullptr && !dying_) {
        TimerState* state = std::exchange(entry, nullptr);
        state->immediate = false;
        state->on_fire();
      }
    }
    firing_.clear();
  }

  uv_loop_t loop_{};
  uv_async_t wake_{};
  uv_idle_t turn_{};
  std::vector<TimerState*> due_now_;
  std::vector<TimerState*> firing_;
  std::vector<std::function<void()>> running_;
  int closing_ = 0;
  bool dying_ = false;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
};

class UvTimer final : public Timer {
 public:
  UvTimer(Uv& loop, std::function<void()> on_fire) : state_(new TimerState) {
    state_->loop = &loop;
    state_->on_fire = std::move(on_fire);
    FAIRLEAD_CHECK(uv_timer_init(loop.raw(), &state_->handle) == 0);
    state_->handle.data = state_;
  }
  UvTimer(const UvTimer&) = delete;
  UvTimer& operator=(const UvTimer&) = delete;
  ~UvTimer() override {
    state_->loop->stop_immediate(state_);
    state_->loop->close(state_);
  }

  void start(Duration delay) override {
    stop();
    if (delay <= Duration::zero()) {
      state_->loop->start_immediate(state_);
      return;
    }
    // libuv counts whole milliseconds from the (truncated) start of the turn; an absolute due time
    // keeps the timer from firing early.
    constexpr Duration kLongest = std::chrono::hours(24 * 365 * 10);
    const auto due = std::chrono::ceil<std::chrono::milliseconds>(
        std::chrono::steady_clock::now().time_since_epoch() + std::min(delay, kLongest));
    const auto due_ms = static_cast<std::uint64_t>(due.count());
    const std::uint64_t now_ms = uv_now(state_->loop->raw());
    uv_timer_start(
        &state_->handle,
        [](uv_timer_t* handle) {
          const auto* state = static_cast<TimerState*>(handle->data);
          if (!state->loop->dying()) {
            state->on_fire();
          }
        },
        due_ms > now_ms ? due_ms - now_ms : 0, 0);
  }
  void stop() override {
    state_->loop->stop_immediate(state_);
    uv_timer_stop(&state_->handle);
  }
  [[nodiscard]] bool active() const override {
    return state_->immediate ||
           uv_is_active(reinterpret_cast<const uv_handle_t*>(&state_->handle)) != 0;
  }

 private:
  TimerState* state_;
};

class UvFdWatch final : public FdWatch {
 public:
  UvFdWatch(Uv& loop, int fd, FdEvents interest, std::function<void(FdEvents)> on_event)
      : state_(new FdState) {
    state_->loop = &loop;
    state_->on_event = std::move(on_event);
    FAIRLEAD_CHECK(uv_poll_init(loop.raw(), &state_->handle, fd) == 0);
    state_->handle.data = state_;
    set(interest);
  }
  UvFdWatch(const UvFdWatch&) = delete;
  UvFdWatch& operator=(const UvFdWatch&) = delete;
  ~UvFdWatch() override {
    // Now, not in the close callback: the fd may be closed, and its number reused, before that.
    uv_poll_stop(&state_->handle);
    state_->loop->close(state_);
  }

  void set(FdEvents interest) override {
    state_->interest = interest;
    arm(*state_);
  }

 private:
  static void arm(FdState& state) {
    const int events =
        (state.interest.readable ? UV_READABLE : 0) | (state.interest.writable ? UV_WRITABLE : 0);
    if (events == 0) {
      uv_poll_stop(&state.handle);
      return;
    }
    FAIRLEAD_CHECK(uv_poll_start(&state.handle, events, [](uv_poll_t* handle, int status, int got) {
                     on_poll(*static_cast<FdState*>(handle->data), status, got);
                   }) == 0);
  }
  static void on_poll(FdState& state, int status, int got) {
    if (state.loop->dying()) {
      return;
    }
    FdEvents events{.readable = (got & UV_READABLE) != 0, .writable = (got & UV_WRITABLE) != 0};
    if (status < 0) {
      // POLLERR: libuv stops the handle. The error (of a netlink socket: lost messages) is for the
      // owner to read, who then expects to hear of the fd again.
      events = state.interest;
      arm(state);
    }
    state.on_event(events);
  }

  FdState* state_;
};

class UvSignalWatch final : public SignalWatch {
 public:
  UvSignalWatch(Uv& loop, int signal_number, std::function<void()> on_signal)
      : state_(new SignalState) {
    state_->loop = &loop;
    state_->on_signal = std::move(on_signal);
    FAIRLEAD_CHECK(uv_signal_init(loop.raw(), &state_->handle) == 0);
    state_->handle.data = state_;
    FAIRLEAD_CHECK(uv_signal_start(
                       &state_->handle,
                       [](uv_signal_t* handle, int) {
                         const auto* state = static_cast<SignalState*>(handle->data);
                         if (!state->loop->dying()) {
                           state->on_signal();
                         }
                       },
                       signal_number) == 0);
  }
  UvSignalWatch(const UvSignalWatch&) = delete;
  UvSignalWatch& operator=(const UvSignalWatch&) = delete;
  ~UvSignalWatch() override {
    uv_signal_stop(&state_->handle);
    state_->loop->close(state_);
  }

 private:
  SignalState* state_;
};

std::unique_ptr<Timer> Uv::timer(std::function<void()> on_fire) {
  return std::make_unique<UvTimer>(*this, std::move(on_fire));
}

std::unique_ptr<FdWatch> Uv::watch_fd(int fd, FdEvents interest,
                                      std::function<void(FdEvents)> on_event) {
  return std::make_unique<UvFdWatch>(*this, fd, interest, std::move(on_event));
}

std::unique_ptr<SignalWatch> Uv::watch_signal(int signal_number, std::function<void()> on_signal) {
  return std::make_unique<UvSignalWatch>(*this, signal_number, std::move(on_signal));
}

}  // namespace

std::unique_ptr<UvLoop> make_uv_loop() { return std::make_unique<Uv>(); }

}  // namespace fairlead::event
