// SPDX-License-Identifier: Apache-2.0
#include "event/loop.h"

#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <string>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/unique_fd.h"

namespace fairlead::event {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

/// What both loops must do alike.
class AnyLoop : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      uv_ = make_uv_loop();
    } else {
      simulated_ = make_simulated_loop();
    }
  }
  Loop& loop() { return uv_ ? static_cast<Loop&>(*uv_) : *simulated_; }
  void run_for(Duration duration) {
    if (simulated_) {
      simulated_->advance(duration);
      return;
    }
    const auto end = uv_->timer([this] { uv_->stop(); });
    end->start(duration);
    uv_->run();
  }
  std::unique_ptr<UvLoop> uv_;
  std::unique_ptr<SimulatedLoop> simulated_;
  std::vector<std::string> log_;
};

INSTANTIATE_TEST_SUITE_P(Loops, AnyLoop, ::testing::Bool(), [](const auto& loop_info) {
  return loop_info.param ? "Uv" : "Simulated";
});

TEST_P(AnyLoop, TimersFireOnceInOrder) {
  const auto late = loop().timer([&] { log_.emplace_back("late"); });
  const auto early = loop().timer([&] { log_.emplace_back("early"); });
  const auto now = loop().timer([&] { log_.emplace_back("now"); });
  late->start(milliseconds(20));
  early->start(milliseconds(5));
  now->start(milliseconds(0));
  EXPECT_TRUE(now->active());
  EXPECT_THAT(log_, IsEmpty());
  run_for(milliseconds(40));
  EXPECT_THAT(log_, ElementsAre("now", "early", "late"));
  EXPECT_FALSE(now->active());
  EXPECT_FALSE(late->active());
}

TEST_P(AnyLoop, RestartReplacesAndStopCancels) {
  const auto note = [&](const char* what) {
    return loop().timer([this, what] { log_.emplace_back(what); });
  };
  const auto replaced = note("replaced");
  replaced->start(milliseconds(2));
  replaced->start(milliseconds(15));
  const auto between = note("between");
  between->start(milliseconds(8));
  const auto stopped = note("stopped");
  stopped->start(milliseconds(2));
  stopped->stop();
  const auto stopped_at_once = note("stopped at once");
  stopped_at_once->start(milliseconds(0));
  stopped_at_once->stop();
  EXPECT_FALSE(stopped_at_once->active());
  const auto delayed = note("delayed");
  delayed->start(milliseconds(0));
  delayed->start(milliseconds(5));
  run_for(milliseconds(30));
  EXPECT_THAT(log_, ElementsAre("delayed", "between", "replaced"));
}

TEST_P(AnyLoop, NeverFiresEarly) {
  std::unique_ptr<Timer> timer;
  TimePoint due;
  int early = 0;
  int fired = 0;
  const auto start = [&] {
    due = loop().now() + std::chrono::microseconds(1300);
    timer->start(std::chrono::microseconds(1300));
  };
  timer = loop().timer([&] {
    early += loop().now() < due ? 1 : 0;
    if (++fired < 10) {
      start();
    }
  });
  start();
  while (fired < 10) {
    run_for(milliseconds(10));
  }
  EXPECT_EQ(early, 0);
}

TEST_P(AnyLoop, TimerMayDestroyItselfAndOthers) {
  std::unique_ptr<Timer> self;
  std::unique_ptr<Timer> other;
  std::string captured(100, 'x');  // on the heap: a freed callback would show in asan
  self = loop().timer([&, captured] {
    self.reset();
    other.reset();
    log_.push_back(captured.substr(0, 1));
  });
  other = loop().timer([&] { log_.emplace_back("other"); });
  self->start(milliseconds(0));
  other->start(milliseconds(0));
  run_for(milliseconds(5));
  EXPECT_THAT(log_, ElementsAre("x"));
}

TEST_P(AnyLoop, TimerRestartedAtOnceLetsOthersRun) {
  int turns = 0;
  std::unique_ptr<Timer> spinning;
  spinning = loop().timer([&] {
    if (++turns < 1000) {
      spinning->start(milliseconds(0));
    }
  });
  spinning->start(milliseconds(0));
  loop().post([&] { log_.emplace_back("posted at " + std::to_string(turns < 1000)); });
  while (turns < 1000) {
    run_for(milliseconds(10));
  }
  EXPECT_THAT(log_, ElementsAre("posted at 1"));
}

TEST_P(AnyLoop, PostsRunInOrder) {
  loop().post([&] {
    log_.emplace_back("1");
    loop().post([&] { log_.emplace_back("3"); });
  });
  loop().post([&] { log_.emplace_back("2"); });
  EXPECT_THAT(log_, IsEmpty());
  run_for(milliseconds(2));
  EXPECT_THAT(log_, ElementsAre("1", "2", "3"));
}

TEST_P(AnyLoop, PostsFromThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 500;
  int count = 0;
  {
    std::vector<std::jthread> threads;
    threads.reserve(kThreads);
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < kEach; ++n) {
          loop().post([&] { ++count; });
        }
      });
    }
  }
  run_for(milliseconds(5));
  EXPECT_EQ(count, kThreads * kEach);
}

TEST_P(AnyLoop, WorkThatNeverRanMayOwnHandles) {
  const std::shared_ptr<Timer> timer = loop().timer([] {});
  timer->start(milliseconds(1));
  loop().post([timer] {});
  // The captured timer goes with the loop, or with this test's copy, whichever is last; the loop
  // must be last of all.
}

TEST(SimulatedLoop, TimeStandsStill) {
  const auto loop = make_simulated_loop();
  const TimePoint start = loop->now();
  std::vector<milliseconds> seen;
  std::unique_ptr<Timer> tick;
  tick = loop->timer([&] {
    seen.push_back(std::chrono::duration_cast<milliseconds>(loop->now() - start));
    tick->start(milliseconds(10));
  });
  tick->start(milliseconds(10));
  EXPECT_EQ(loop->now(), start);
  loop->advance(milliseconds(35));
  EXPECT_EQ(loop->now(), start + milliseconds(35));
  EXPECT_THAT(seen, ElementsAre(milliseconds(10), milliseconds(20), milliseconds(30)));
  EXPECT_GT(start, TimePoint{});
}

std::pair<UniqueFd, UniqueFd> socket_pair() {
  std::array<int, 2> fds{};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds.data()), 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TEST(UvLoop, FdIsLevelTriggered) {
  const auto loop = make_uv_loop();
  const auto [near, far] = socket_pair();
  ASSERT_EQ(::write(far.get(), "abc", 3), 3);
  std::string got;
  const auto watch = loop->watch_fd(near.get(), {.readable = true}, [&](FdEvents events) {
    EXPECT_TRUE(events.readable);
    EXPECT_FALSE(events.writable);
    char byte = 0;
    ASSERT_EQ(::read(near.get(), &byte, 1), 1);
    got += byte;
    if (got.size() == 3) {
      loop->stop();
    }
  });
  loop->run();
  EXPECT_EQ(got, "abc");
}

TEST(UvLoop, FdInterestChanges) {
  const auto loop = make_uv_loop();
  const auto [near, far] = socket_pair();
  std::vector<std::string> log;
  std::unique_ptr<FdWatch> watch;
  watch = loop->watch_fd(near.get(), {.readable = true}, [&](FdEvents events) {
    if (events.writable) {
      log.emplace_back("writable");
      watch->set({.readable = true});
      EXPECT_EQ(::write(far.get(), "x", 1), 1);
    } else if (events.readable) {
      log.emplace_back("readable");
      watch->set({});
      loop->post([&] { loop->stop(); });
    }
  });
  watch->set({.readable = true, .writable = true});
  loop->run();
  EXPECT_THAT(log, ElementsAre("writable", "readable"));
}

TEST(UvLoop, FdWatchMayDestroyItselfAndTheNumberIsFreeAtOnce) {
  const auto loop = make_uv_loop();
  auto [near, far] = socket_pair();
  ASSERT_EQ(::write(far.get(), "abc", 3), 3);
  std::unique_ptr<FdWatch> first;
  std::unique_ptr<FdWatch> second;
  first = loop->watch_fd(near.get(), {.readable = true}, [&](FdEvents) {
    first.reset();
    second = loop->watch_fd(near.get(), {.writable = true}, [&](FdEvents events) {
      EXPECT_TRUE(events.writable);
      second.reset();
      loop->stop();
    });
  });
  loop->run();
  EXPECT_EQ(second, nullptr);
}

TEST(UvLoop, HangUpIsReadable) {
  const auto loop = make_uv_loop();
  auto [near, far] = socket_pair();
  far.reset();
  int events_seen = 0;
  const auto watch = loop->watch_fd(near.get(), {.readable = true}, [&](FdEvents events) {
    EXPECT_TRUE(events.readable);
    if (++events_seen >= 3) {  // nobody reads it: it stays
      loop->stop();
    }
  });
  loop->run();
  EXPECT_GE(events_seen, 3);
}

// A socket whose error nobody has read yet (as a netlink socket that lost messages).
TEST(UvLoop, ErrorIsToldAndTheWatchGoesOn) {
  const auto loop = make_uv_loop();
  std::array<int, 2> fds{};
  ASSERT_EQ(::pipe2(fds.data(), O_CLOEXEC), 0);
  const UniqueFd write_end(fds[1]);
  UniqueFd(fds[0]).reset();  // a pipe without a reader is POLLERR for its writer
  int events_seen = 0;
  const auto watch = loop->watch_fd(write_end.get(), {.writable = true}, [&](FdEvents events) {
    EXPECT_TRUE(events.writable);
    if (++events_seen >= 3) {
      loop->stop();
    }
  });
  loop->run();
  EXPECT_GE(events_seen, 3);
}

TEST(UvLoop, Signals) {
  const auto loop = make_uv_loop();
  int hups = 0;
  std::unique_ptr<SignalWatch> once;
  once = loop->watch_signal(SIGUSR1, [&] {
    once.reset();
    ASSERT_EQ(::kill(::getpid(), SIGHUP), 0);
  });
  const auto watch = loop->watch_signal(SIGHUP, [&] {
    if (++hups == 2) {
      loop->stop();
    } else {
      ASSERT_EQ(::kill(::getpid(), SIGHUP), 0);
    }
  });
  ASSERT_EQ(::kill(::getpid(), SIGUSR1), 0);
  loop->run();
  EXPECT_EQ(hups, 2);
}

TEST(UvLoop, StopFromAThreadAndRunAgain) {
  const auto loop = make_uv_loop();
  for (int i = 0; i < 2; ++i) {
    const std::jthread stopper([&] { loop->stop(); });
    loop->run();
  }
  loop->stop();  // before the run: not lost
  loop->run();
  bool ran = false;
  loop->post([&] { ran = true; });
  EXPECT_FALSE(ran);
  loop->stop();
  loop->run();
  EXPECT_TRUE(ran) << "a post after a stop waits for the next run";
}

}  // namespace
}  // namespace fairlead::event
