// SPDX-License-Identifier: Apache-2.0
#include "kube/list_watch.h"

#include <chrono>
#include <gtest/gtest.h>
#include <string>

namespace fairlead::kube {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Action = Step::Action;

constexpr event::TimePoint kStart{std::chrono::hours(1)};
constexpr event::Duration kNow = event::Duration::zero();
constexpr event::Duration kFirstWait = milliseconds(800);

Resource slices() {
  return Resource{api::Kind::kEndpointSlice, {"/v1/slices", "/v1beta1/slices"}, "!a,b=c d", ""};
}

Failure status(int code) {
  Failure failure;
  failure.kind = Failure::Kind::kStatus;
  failure.status = code;
  return failure;
}

Failure trouble(Failure::Kind kind) {
  Failure failure;
  failure.kind = kind;
  return failure;
}

void expect_step(const Step& step, Action action, event::Duration delay) {
  EXPECT_EQ(step.action, action);
  EXPECT_EQ(step.delay, delay);
}

/// A machine whose list is complete at version 100 and whose watch has been asked for.
class ListWatchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    expect_step(machine_.begin(), Action::kList, kNow);
    EXPECT_FALSE(machine_.request(0).watch);
    const Step step = machine_.page(kStart, 0, "100", "");
    expect_step(step, Action::kWatch, kNow);
    EXPECT_TRUE(step.deliver_list);
    EXPECT_TRUE(machine_.request(0).watch);
  }
  ListWatch machine_{slices(), ListWatchOptions{}};
};

TEST(PercentEncode, LeavesOnlyUnreserved) {
  EXPECT_EQ(percent_encode("!a.b/c-d_e~,f=g h&i+\xc3\xa4"),
            "%21a.b%2Fc-d_e~%2Cf%3Dg%20h%26i%2B%C3%A4");
}

TEST(ListWatch, ListsInPages) {
  ListWatch machine(slices(), ListWatchOptions{});
  const Step begin = machine.begin();
  expect_step(begin, Action::kList, kNow);
  EXPECT_TRUE(begin.drop_list);
  ListWatchRequest request = machine.request(0);
  EXPECT_TRUE(request.first_page);
  EXPECT_EQ(request.http.target, "/v1/slices?labelSelector=%21a%2Cb%3Dc%20d&limit=500");
  EXPECT_EQ(request.http.deadline, seconds(60));

  const Step more = machine.page(kStart, 0, "100", "t/=");
  expect_step(more, Action::kList, kNow);
  EXPECT_FALSE(more.deliver_list);
  EXPECT_FALSE(more.drop_list);
  request = machine.request(0);
  EXPECT_FALSE(request.first_page);
  EXPECT_EQ(request.http.target,
            "/v1/slices?labelSelector=%21a%2Cb%3Dc%20d&limit=500&continue=t%2F%3D");

  const Step whole = machine.page(kStart, 0, "100", "");
  expect_step(whole, Action::kWatch, kNow);
  EXPECT_TRUE(whole.deliver_list);
  EXPECT_FALSE(whole.drop_list);
}

TEST(ListWatch, AMalformedPageStartsOver) {
  ListWatch machine(slices(), ListWatchOptions{});
  (void)machine.begin();  // what it says is tested above
  const Step no_version = machine.page(kStart, 0, "", "");
  expect_step(no_version, Action::kList, kFirstWait);
  EXPECT_FALSE(no_version.deliver_list);
  EXPECT_TRUE(no_version.drop_list);

  (void)machine.page(kStart, 0, "100", "again");  // a good page
  const Step circle = machine.page(kStart, 0, "100", "again");
  EXPECT_EQ(circle.action, Action::kList);
  EXPECT_FALSE(circle.deliver_list);
  EXPECT_TRUE(circle.drop_list);
}

TEST(ListWatch, FailedLists) {
  struct Case {
    std::string name;
    bool later_page;
    Failure failure;
    bool drop;
    event::Duration delay;
    bool paged = true;
  };
  Failure patient = status(429);
  patient.retry_after = seconds(7);
  Failure lazy = status(503);
  lazy.retry_after = seconds(3600);
  for (const Case& c : std::vector<Case>{
           {"refused, first", false, trouble(Failure::Kind::kUnreachable), true, kFirstWait},
           {"refused, later", true, trouble(Failure::Kind::kUnreachable), false, kFirstWait},
           {"timeout, later", true, trouble(Failure::Kind::kTimeout), false, kFirstWait},
           {"broken, later", true, trouble(Failure::Kind::kBroken), false, kFirstWait},
           {"malformed, later", true, trouble(Failure::Kind::kMalformed), true, kFirstWait},
           {"429, later", true, patient, false, seconds(7)},
           {"503, Retry-After has a bound", false, lazy, true, seconds(60)},
           {"500, later", true, status(500), false, kFirstWait},
           {"403", false, status(403), true, kFirstWait},
           {"401, later", true, status(401), true, kNow},
           {"410, later", true, status(410), true, kNow, false},
           {"410, first", false, status(410), true, kFirstWait},
           {"404 tries the other version", false, status(404), true, kNow},
       }) {
    ListWatch machine(slices(), ListWatchOptions{});
    (void)machine.begin();  // what it says is tested above
    if (c.later_page) {
      (void)machine.page(kStart, 0, "100", "token");  // a good page
    }
    const Step step = machine.list_failed(kStart, 0, c.failure);
    EXPECT_EQ(step.action, Action::kList) << c.name;
    EXPECT_EQ(step.delay, c.delay) << c.name;
    EXPECT_EQ(step.drop_list, c.drop) << c.name;
    EXPECT_FALSE(step.deliver_list) << c.name;
    const ListWatchRequest request = machine.request(0);
    EXPECT_FALSE(request.watch) << c.name;
    EXPECT_EQ(request.first_page, c.drop) << c.name;
    EXPECT_EQ(request.http.target.find("limit=") != std::string::npos, c.paged) << c.name;
  }
}

TEST(ListWatch, APageThatKeepsFailingStartsOver) {
  ListWatch machine(slices(), ListWatchOptions{});
  (void)machine.begin();                          // what it says is tested above
  (void)machine.page(kStart, 0, "100", "token");  // a good page
  int tries = 1;
  while (!machine.list_failed(kStart, 0, status(500)).drop_list) {
    ++tries;
    ASSERT_LT(tries, 100);
  }
  EXPECT_EQ(tries, 5);
}

TEST(ListWatch, VersionsOfTheApi) {
  ListWatch machine(slices(), ListWatchOptions{});
  (void)machine.begin();  // what it says is tested above
  EXPECT_EQ(machine.path(), "/v1/slices");
  expect_step(machine.list_failed(kStart, 0, status(404)), Action::kList, kNow);
  EXPECT_EQ(machine.path(), "/v1beta1/slices");
  // Neither is there: a new round, after a wait.
  expect_step(machine.list_failed(kStart, 0, status(404)), Action::kList, kFirstWait);
  EXPECT_EQ(machine.path(), "/v1/slices");
  expect_step(machine.list_failed(kStart, 0, status(404)), Action::kList, kNow);
  EXPECT_TRUE(machine.page(kStart, 0, "100", "").deliver_list);
  EXPECT_EQ(machine.path(), "/v1beta1/slices");
  // The server was upgraded: the old version is gone, the new one is asked for.
  const Step gone = machine.watch_failed(kStart, 0, status(404));
  EXPECT_EQ(gone.action, Action::kList);
  EXPECT_EQ(machine.path(), "/v1/slices");
}

TEST_F(ListWatchTest, WatchQuery) {
  EXPECT_EQ(machine_.request(0.5).http.target,
            "/v1/slices?labelSelector=%21a%2Cb%3Dc%20d&watch=1&resourceVersion=100&"
            "allowWatchBookmarks=true&timeoutSeconds=450");
  EXPECT_EQ(machine_.request(0.5).http.deadline, kNow);
}

TEST_F(ListWatchTest, FollowsEveryVersion) {
  machine_.watch_opened(kStart);
  machine_.watch_event("101");
  machine_.watch_event("");  // unreadable
  EXPECT_EQ(machine_.resource_version(), "101");
  machine_.watch_bookmark("200");
  EXPECT_EQ(machine_.resource_version(), "200");
  expect_step(machine_.watch_closed(kStart + seconds(400), 0), Action::kWatch, kNow);
  EXPECT_NE(machine_.request(0).http.target.find("resourceVersion=200&"), std::string::npos);
}

TEST_F(ListWatchTest, ShortWatchesWait) {
  machine_.watch_opened(kStart);
  expect_step(machine_.watch_closed(kStart + milliseconds(10), 0), Action::kWatch, kFirstWait);
  (void)machine_.request(0);  // the next watch
  machine_.watch_opened(kStart);
  machine_.watch_bookmark("101");
  expect_step(machine_.watch_closed(kStart, 0), Action::kWatch, kFirstWait * 2);
  (void)machine_.request(0);  // the next watch
  machine_.watch_opened(kStart);
  machine_.watch_event("102");
  expect_step(machine_.watch_closed(kStart, 0), Action::kWatch, kNow);
}

TEST_F(ListWatchTest, FailedWatches) {
  struct Case {
    std::string name;
    Failure failure;
    Action action;
    event::Duration delay;
    bool opened = false;
  };
  Failure patient = status(429);
  patient.retry_after = seconds(5);
  for (const Case& c : std::vector<Case>{
           {"410", status(410), Action::kList, kFirstWait},
           {"410 in the stream", status(410), Action::kList, kFirstWait, true},
           {"500 in the stream", status(500), Action::kList, kFirstWait, true},
           {"504, too large a version", status(504), Action::kList, kFirstWait},
           {"400", status(400), Action::kList, kFirstWait},
           {"429", patient, Action::kWatch, seconds(5)},
           {"503", status(503), Action::kWatch, kFirstWait},
           {"401", status(401), Action::kWatch, kNow},
           {"403", status(403), Action::kWatch, kFirstWait},
           {"refused", trouble(Failure::Kind::kUnreachable), Action::kWatch, kFirstWait},
           {"no head", trouble(Failure::Kind::kTimeout), Action::kWatch, kFirstWait},
           {"broken before the head", trouble(Failure::Kind::kBroken), Action::kWatch, kFirstWait},
           {"broken later", trouble(Failure::Kind::kBroken), Action::kWatch, kNow, true},
           {"silent", trouble(Failure::Kind::kSilent), Action::kWatch, kNow, true},
           {"not JSON", trouble(Failure::Kind::kMalformed), Action::kList, kFirstWait, true},
       }) {
    ListWatch machine = machine_;
    if (c.opened) {
      machine.watch_opened(kStart - seconds(10));
    }
    const Step step = machine.watch_failed(kStart, 0, c.failure);
    EXPECT_EQ(step.action, c.action) << c.name;
    EXPECT_EQ(step.delay, c.delay) << c.name;
    EXPECT_FALSE(step.deliver_list) << c.name;
    const ListWatchRequest request = machine.request(0);
    EXPECT_EQ(request.watch, c.action == Action::kWatch) << c.name;
    EXPECT_EQ(request.http.target.find("resourceVersion=100") != std::string::npos,
              c.action == Action::kWatch)
        << c.name;
  }
}

TEST_F(ListWatchTest, ANewTokenIsTriedAtOnceButOnce) {
  expect_step(machine_.watch_failed(kStart, 0, status(401)), Action::kWatch, kNow);
  expect_step(machine_.watch_failed(kStart, 0, status(401)), Action::kWatch, kFirstWait);
  machine_.watch_opened(kStart);
  expect_step(machine_.watch_failed(kStart, 0, status(401)), Action::kWatch, kNow);
}

TEST_F(ListWatchTest, AListAfterAnOutageIsNotDelayedByIt) {
  for (int i = 0; i < 10; ++i) {
    (void)machine_.watch_failed(kStart, 0, status(503));  // only for the backoff it leaves behind
  }
  expect_step(machine_.watch_failed(kStart, 0, status(410)), Action::kList, kFirstWait);
  expect_step(machine_.list_failed(kStart, 0, status(410)), Action::kList, kFirstWait * 2);
}

TEST_F(ListWatchTest, PatienceWithSilence) {
  EXPECT_EQ(machine_.silence_limit(), seconds(60));  // no head yet
  machine_.watch_opened(kStart);
  EXPECT_EQ(machine_.silence_limit(), seconds(330));
  machine_.watch_bookmark("101");
  EXPECT_EQ(machine_.silence_limit(), seconds(100));
}

TEST_F(ListWatchTest, TwoSilentWatchesMeanAList) {
  const Failure silent = trouble(Failure::Kind::kSilent);
  machine_.watch_opened(kStart);
  machine_.watch_bookmark("101");
  expect_step(machine_.watch_failed(kStart, 0, silent), Action::kWatch, kNow);
  (void)machine_.request(0);  // the next watch
  machine_.watch_opened(kStart);
  machine_.watch_bookmark("102");
  expect_step(machine_.watch_failed(kStart, 0, silent), Action::kWatch, kNow);
  (void)machine_.request(0);  // the next watch
  machine_.watch_opened(kStart);
  expect_step(machine_.watch_failed(kStart, 0, silent), Action::kList, kFirstWait);
  // This server may not send bookmarks at all.
  (void)machine_.page(kStart, 0, "5", "");  // a whole list
  (void)machine_.request(0);                // the next watch
  machine_.watch_opened(kStart);
  EXPECT_EQ(machine_.silence_limit(), seconds(330));
}

}  // namespace
}  // namespace fairlead::kube
