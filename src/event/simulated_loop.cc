// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "event/loop.h"

namespace fairlead::event {
namespace {

using Callback = std::shared_ptr<std::function<void()>>;
/// Due time, then order of start.
using Slot = std::pair<TimePoint, std::uint64_t>;

class Simulated final : public SimulatedLoop {
 public:
  [[nodiscard]] TimePoint now() const override { return now_; }
  [[nodiscard]] std::unique_ptr<Timer> timer(std::function<void()> on_fire) override;
  [[nodiscard]] std::unique_ptr<FdWatch> watch_fd(int, FdEvents,
                                                  std::function<void(FdEvents)>) override {
    class Never final : public FdWatch {
      void set(FdEvents) override {}
    };
    return std::make_unique<Never>();
  }
  [[nodiscard]] std::unique_ptr<SignalWatch> watch_signal(int, std::function<void()>) override {
    class Never final : public SignalWatch {};
    return std::make_unique<Never>();
  }
  void post(std::function<void()> work) override {
    const std::scoped_lock lock(mutex_);
    posted_.push_back(std::move(work));
  }

  void advance(Duration duration) override {
    FAIRLEAD_CHECK(!advancing_ && "advance from within a callback");
    advancing_ = true;
    const TimePoint target = now_ + duration;
    int turns_without_time = 0;
    for (;;) {
      if (run_posted() || fire_due()) {
        FAIRLEAD_CHECK(++turns_without_time < kSpinning && "the simulated loop spins");
        continue;
      }
      if (timers_.empty() || timers_.begin()->first.first > target) {
        break;
      }
      now_ = timers_.begin()->first.first;
      turns_without_time = 0;
    }
    now_ = target;
    advancing_ = false;
  }

  [[nodiscard]] Slot add(Duration delay, Callback on_fire) {
    const Slot slot(
        now_ + std::chrono::ceil<std::chrono::milliseconds>(std::max(delay, Duration::zero())),
        ++started_);
    timers_.emplace(slot, std::move(on_fire));
    return slot;
  }
  void remove(const Slot& slot) { timers_.erase(slot); }
  [[nodiscard]] bool contains(const Slot& slot) const { return timers_.contains(slot); }

 private:
  static constexpr int kSpinning = 1'000'000;

  bool run_posted() {
    std::vector<std::function<void()>> batch;
    {
      const std::scoped_lock lock(mutex_);
      batch.swap(posted_);
    }
    for (auto& work : batch) {
      work();
    }
    return !batch.empty();
  }

  bool fire_due() {
    if (timers_.empty() || timers_.begin()->first.first > now_) {
      return false;
    }
    // Held here: the callback may destroy its timer.
    const Callback on_fire = std::move(timers_.begin()->second);
    timers_.erase(timers_.begin());
    (*on_fire)();
    return true;
  }

  // Not the epoch, so that a default TimePoint is in the past as on a real machine.
  TimePoint now_{std::chrono::hours(1)};
  std::map<Slot, Callback> timers_;
  std::uint64_t started_ = 0;
  bool advancing_ = false;
  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
};

class SimulatedTimer final : public Timer {
 public:
  SimulatedTimer(Simulated& loop, std::function<void()> on_fire)
      : loop_(loop), on_fire_(std::make_shared<std::function<void()>>(std::move(on_fire))) {}
  SimulatedTimer(const SimulatedTimer&) = delete;
  SimulatedTimer& operator=(const SimulatedTimer&) = delete;
  ~SimulatedTimer() override { loop_.remove(slot_); }

  void start(Duration delay) override {
    loop_.remove(slot_);
    slot_ = loop_.add(delay, on_fire_);
  }
  void stop() override { loop_.remove(slot_); }
  [[nodiscard]] bool active() const override { return loop_.contains(slot_); }

 private:
  Simulated& loop_;
  Callback on_fire_;
  Slot slot_;
};

std::unique_ptr<Timer> Simulated::timer(std::function<void()> on_fire) {
  return std::make_unique<SimulatedTimer>(*this, std::move(on_fire));
}

}  // namespace

std::unique_ptr<SimulatedLoop> make_simulated_loop() { return std::make_unique<Simulated>(); }

}  // namespace fairlead::event
