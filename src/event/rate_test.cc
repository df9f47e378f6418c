// SPDX-License-Identifier: Apache-2.0
#include "event/rate.h"

#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <vector>

namespace fairlead::event {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class BoundedRunnerTest : public ::testing::Test {
 protected:
  /// Milliseconds since the start of the test.
  [[nodiscard]] long elapsed() const {
    return std::chrono::duration_cast<milliseconds>(loop_->now() - start_).count();
  }
  std::unique_ptr<SimulatedLoop> loop_ = make_simulated_loop();
  TimePoint start_ = loop_->now();
  std::vector<long> runs_;
};

TEST_F(BoundedRunnerTest, FirstRequestRunsInTheNextTurn) {
  BoundedRunner runner(*loop_, milliseconds(100), [&] { runs_.push_back(elapsed()); });
  runner.request();
  EXPECT_THAT(runs_, IsEmpty());
  EXPECT_TRUE(runner.pending());
  loop_->advance(milliseconds(0));
  EXPECT_THAT(runs_, ElementsAre(0));
  EXPECT_FALSE(runner.pending());
}

TEST_F(BoundedRunnerTest, RequestsCoalesceAndKeepTheirDistance) {
  BoundedRunner runner(*loop_, milliseconds(100), [&] { runs_.push_back(elapsed()); });
  for (int i = 0; i < 50; ++i) {
    runner.request();
    loop_->advance(milliseconds(10));
  }
  loop_->advance(milliseconds(1000));
  EXPECT_THAT(runs_, ElementsAre(0, 100, 200, 300, 400, 500));
  runner.request();
  loop_->advance(milliseconds(0));
  EXPECT_EQ(runs_.back(), 1500) << "after a quiet time at once";
}

TEST_F(BoundedRunnerTest, DistanceCountsFromTheEndOfARun) {
  BoundedRunner* self = nullptr;
  // The real loop's clock moves during a run; here a request made within stands for its end.
  BoundedRunner runner(*loop_, milliseconds(100), [&] {
    runs_.push_back(elapsed());
    if (runs_.size() < 3) {
      self->request();
    }
  });
  self = &runner;
  runner.request();
  loop_->advance(milliseconds(1000));
  EXPECT_THAT(runs_, ElementsAre(0, 100, 200));
}

TEST_F(BoundedRunnerTest, RetryWaitsUnlessARequestComes) {
  BoundedRunner runner(*loop_, milliseconds(10), [&] { runs_.push_back(elapsed()); });
  runner.retry_after(milliseconds(500));
  runner.retry_after(milliseconds(700));
  loop_->advance(milliseconds(600));
  EXPECT_THAT(runs_, ElementsAre(500));
  EXPECT_FALSE(runner.pending()) << "a run answers later retries too";

  runner.retry_after(milliseconds(500));
  runner.request();
  loop_->advance(milliseconds(2000));
  EXPECT_THAT(runs_, ElementsAre(500, 600));
}

TEST_F(BoundedRunnerTest, RetryFromWithinTheRun) {
  BoundedRunner* self = nullptr;
  BoundedRunner runner(*loop_, milliseconds(100), [&] {
    runs_.push_back(elapsed());
    if (runs_.size() == 1) {
      self->retry_after(milliseconds(30));
    } else if (runs_.size() == 2) {
      self->retry_after(milliseconds(300));
    }
  });
  self = &runner;
  runner.request();
  loop_->advance(milliseconds(1000));
  EXPECT_THAT(runs_, ElementsAre(0, 100, 400));
}

TEST_F(BoundedRunnerTest, MayDestroyItself) {
  std::unique_ptr<BoundedRunner> runner;
  runner = std::make_unique<BoundedRunner>(*loop_, milliseconds(100), [&] {
    runs_.push_back(elapsed());
    runner.reset();
  });
  runner->request();
  loop_->advance(milliseconds(1000));
  EXPECT_THAT(runs_, ElementsAre(0));
}

TEST_F(BoundedRunnerTest, DestroyedWhilePendingNeverRuns) {
  {
    BoundedRunner runner(*loop_, milliseconds(100), [&] { runs_.push_back(elapsed()); });
    runner.request();
  }
  loop_->advance(milliseconds(1000));
  EXPECT_THAT(runs_, IsEmpty());
}

}  // namespace
}  // namespace fairlead::event
