// SPDX-License-Identifier: Apache-2.0
// The event loop of one thread (libuv underneath). Everything but `post` must be called on the
// thread that runs the loop. Callbacks run on that thread, never inside the call that set them up.
// Handles are owned: destroying a Timer, FdWatch or SignalWatch stops it, and no callback follows.
// They may be destroyed within their own callback. The loop outlives its handles.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace fairlead::event {

using Duration = std::chrono::nanoseconds;
/// Monotonic.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock>;

class Timer {
 public:
  Timer() = default;
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  virtual ~Timer() = default;
  /// Fires once after `delay` (rounded up to milliseconds); a pending firing is replaced.
  virtual void start(Duration delay) = 0;
  virtual void stop() = 0;
  [[nodiscard]] virtual bool active() const = 0;
};

struct FdEvents {
  bool readable = false;
  bool writable = false;
};

class FdWatch {
 public:
  FdWatch() = default;
  FdWatch(const FdWatch&) = delete;
  FdWatch& operator=(const FdWatch&) = delete;
  virtual ~FdWatch() = default;
  /// Level-triggered; replaces the former interest. Neither: paused. The fd stays the caller's and
  /// must stay open as long as this object lives; it is made non-blocking, and has one watch at a
  /// time. An error or hang-up counts as what was asked for, so that the owner meets it.
  virtual void set(FdEvents interest) = 0;
};

class SignalWatch {
 public:
  SignalWatch() = default;
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  virtual ~SignalWatch() = default;
};

class Loop {
 public:
  Loop() = default;
  Loop(const Loop&) = delete;
  Loop& operator=(const Loop&) = delete;
  virtual ~Loop() = default;

  [[nodiscard]] virtual TimePoint now() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Timer> timer(std::function<void()> on_fire) = 0;
  [[nodiscard]] virtual std::unique_ptr<FdWatch> watch_fd(
      int fd, FdEvents interest, std::function<void(FdEvents)> on_event) = 0;
  [[nodiscard]] virtual std::unique_ptr<SignalWatch> watch_signal(
      int signal_number, std::function<void()> on_signal) = 0;
  /// From any thread: runs `work` on the loop's thread, in order of posting. While the loop does
  /// not run, work waits; what waits when the loop is destroyed is dropped unrun, on that thread.
  /// The caller sees to it that no other thread posts to a loop that is being destroyed.
  virtual void post(std::function<void()> work) = 0;
};

/// A real loop.
class UvLoop : public Loop {
 public:
  /// Runs until `stop`; may be run again.
  virtual void run() = 0;
  /// From any thread. Takes effect after what was posted before; not lost if the loop does not run
  /// yet. Other callbacks of the same turn may still run.
  virtual void stop() = 0;
};
[[nodiscard]] std::unique_ptr<UvLoop> make_uv_loop();

/// A loop whose time stands still until a test moves it. File descriptors and signals never fire.
class SimulatedLoop : public Loop {
 public:
  /// Runs what is due, moving time forward by `duration` step by step from timer to timer.
  virtual void advance(Duration duration) = 0;
};
[[nodiscard]] std::unique_ptr<SimulatedLoop> make_simulated_loop();

}  // namespace fairlead::event
