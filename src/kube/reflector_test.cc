// SPDX-License-Identifier: Apache-2.0
#include "kube/reflector.h"

#include <chrono>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kube/api_source.h"

namespace fairlead::kube {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

/// The network: what was asked, and the test answers when it likes.
class FakeTransport : public Transport {
 public:
  struct Request {
    HttpRequest http;
    HttpHandler handler;
    bool alive = true;
    bool distrusted = false;

    void head(int status) const {
      HttpHead head;
      head.status = status;
      handler.on_head(head);
    }
    void data(const std::string& bytes) const { handler.on_data(bytes); }
    void end(const std::optional<TransportError>& error = {}) const { handler.on_end(error); }
  };

  std::unique_ptr<HttpExchange> get(HttpRequest request, HttpHandler handler) override {
    requests.push_back(std::make_shared<Request>(std::move(request), std::move(handler)));
    return std::make_unique<Exchange>(requests.back());
  }

  [[nodiscard]] Request last() const { return *requests.back(); }
  std::vector<std::shared_ptr<Request>> requests;

 private:
  class Exchange : public HttpExchange {
   public:
    explicit Exchange(std::shared_ptr<Request> request) : request_(std::move(request)) {}
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
    ~Exchange() override { request_->alive = false; }
    void distrust_connection() override { request_->distrusted = true; }

   private:
    std::shared_ptr<Request> request_;
  };
};

/// Notes calls as text, and keeps what a store would.
class FakeSink : public api::Sink {
 public:
  void put(api::Shared<api::Service> service) override {
    put_key(service->meta);
    last_service = std::move(service);
  }
  void put(api::Shared<api::EndpointSlice> slice) override { put_key(slice->meta); }
  void put(api::Node node) override { put_key(node.meta); }
  void erase(api::Kind kind, const api::ObjectKey& key) override {
    calls.push_back("erase " + std::string(api::text(kind)) + " " + key.text());
    held.erase(key.text());
  }
  void replace_begin(api::Kind kind) override {
    calls.push_back("begin " + std::string(api::text(kind)));
    held.clear();
  }
  void replace_end(api::Kind kind) override {
    calls.push_back("end " + std::string(api::text(kind)));
  }
  void flush() override { calls.emplace_back("flush"); }
  std::vector<std::string> take() { return std::exchange(calls, {}); }

  std::vector<std::string> calls;
  api::Shared<api::Service> last_service;
  std::map<std::string, std::string> held;  // uid by key

 private:
  void put_key(const api::Meta& meta) {
    calls.push_back("put " + meta.key.text());
    held[meta.key.text()] = meta.uid;
  }
};

std::string service(const std::string& name, const std::string& version,
                    const std::string& uid = "u") {
  return R"({"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop","name":")" + name +
         R"(","uid":")" + uid + R"(","resourceVersion":")" + version +
         R"("},"spec":{"clusterIP":"10.96.0.9","ports":[{"port":80,"protocol":"TCP"}]}})";
}

std::string broken(const std::string& name) {
  return R"({"apiVersion":"v1","kind":"Service","metadata":{"namespace":"shop","name":")" + name +
         R"("},"spec":{"ports":[{"port":70000}]}})";
}

std::string list(const std::string& version, const std::vector<std::string>& items,
                 const std::string& more = "") {
  std::string text = R"({"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":")" +
                     version + R"(","continue":")" + more + R"("},"items":[)";
  for (std::size_t i = 0; i < items.size(); ++i) {
    text += (i == 0 ? "" : ",") + items[i];
  }
  return text + "]}";
}

std::string event(const std::string& type, const std::string& object) {
  return R"({"type":")" + type + R"(","object":)" + object + "}\n";
}

std::string bookmark(const std::string& version) {
  return event("BOOKMARK",
               R"({"kind":"Service","apiVersion":"v1","metadata":{"resourceVersion":")" + version +
                   R"("}})");
}

std::string status_object(int code, const std::string& message) {
  return R"({"kind":"Status","apiVersion":"v1","status":"Failure","message":")" + message +
         R"(","code":)" + std::to_string(code) + "}";
}

TransportError refused() { return {TransportError::Kind::kUnreachable, "refused"}; }
TransportError reset() { return {TransportError::Kind::kBroken, "reset"}; }

class ReflectorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    reflector_.start();
    run();
  }
  /// Lets what is due happen.
  void run(event::Duration duration = milliseconds(1)) { loop_->advance(duration); }
  void answer(const std::string& body) {
    const FakeTransport::Request request = transport_.last();
    request.head(200);
    request.data(body);
    request.end();
    run();
  }
  void refuse(int status, const std::string& body = "") {
    const FakeTransport::Request request = transport_.last();
    request.head(status);
    request.data(body);
    request.end();
  }
  /// Lists the given services and opens the watch.
  void sync(const std::vector<std::string>& items) {
    answer(list("100", items));
    transport_.last().head(200);
    sink_.calls.clear();
  }
  [[nodiscard]] bool asked(const std::string& part) const {
    return transport_.last().http.target.find(part) != std::string::npos;
  }
  [[nodiscard]] std::size_t count() const { return transport_.requests.size(); }

  std::unique_ptr<event::SimulatedLoop> loop_ = event::make_simulated_loop();
  FakeTransport transport_;
  FakeSink sink_;
  api::Decoder decoder_;
  RateLimiter limiter_{5, 10};
  Reflector::Shared shared_{
      *loop_, transport_, decoder_, sink_, limiter_, [] { return 0.0; }, [this] { ++recoveries_; }};
  int recoveries_ = 0;
  Reflector reflector_{shared_, Resource{api::Kind::kService, {"/api/v1/services"}, "", ""},
                       ListWatchOptions{}};
};

TEST_F(ReflectorTest, ListsThenWatches) {
  EXPECT_TRUE(asked("/api/v1/services?limit=500"));
  answer(list("100", {service("a", "1"), service("b", "2")}, "more"));
  EXPECT_THAT(sink_.calls, IsEmpty());
  EXPECT_TRUE(asked("continue=more"));
  answer(list("100", {service("c", "3")}));
  EXPECT_THAT(sink_.take(), ElementsAre("begin Service", "put shop/a", "put shop/b", "put shop/c",
                                        "end Service", "flush"));
  EXPECT_TRUE(asked("watch=1&resourceVersion=100"));
  EXPECT_TRUE(reflector_.status().synced);
  EXPECT_FALSE(reflector_.status().watching);

  const FakeTransport::Request watch = transport_.last();
  watch.head(200);
  EXPECT_TRUE(reflector_.status().watching);
  const std::string events = event("ADDED", service("d", "101")) +
                             event("MODIFIED", service("a", "102")) +
                             event("DELETED", service("b", "103"));
  watch.data(events.substr(0, 40));
  EXPECT_THAT(sink_.calls, IsEmpty());
  watch.data(events.substr(40));
  EXPECT_THAT(sink_.take(),
              ElementsAre("put shop/d", "put shop/a", "erase Service shop/b", "flush"));
  watch.data(bookmark("150"));
  EXPECT_THAT(sink_.take(), IsEmpty());

  run(seconds(90));
  watch.data(bookmark("160"));
  watch.end();
  run();
  EXPECT_TRUE(asked("watch=1&resourceVersion=160"));
  EXPECT_TRUE(reflector_.status().watching);
  EXPECT_THAT(sink_.take(), IsEmpty());
}

TEST_F(ReflectorTest, WhatNobodyReadsIsDropped) {
  answer(list("100", {R"({"metadata":{"namespace":"shop","name":"a","labels":{"app":"a",
      "service.kubernetes.io/service-proxy-name":"other"}},
      "spec":{"selector":{"app":"a"},"ports":[{"port":80}]}})"}));
  ASSERT_NE(sink_.last_service, nullptr);
  EXPECT_TRUE(sink_.last_service->selector.empty());
  EXPECT_THAT(sink_.last_service->meta.labels,
              ElementsAre(Pair("service.kubernetes.io/service-proxy-name", "other")));
}

TEST_F(ReflectorTest, GoneLeadsToAWholeListThatReplaces) {
  sync({service("a", "1"), service("b", "2")});
  transport_.last().data(event("ADDED", service("c", "101")) +
                         event("ERROR", status_object(410, "too old resource version")));
  EXPECT_THAT(sink_.take(), ElementsAre("put shop/c", "flush"));
  EXPECT_FALSE(transport_.requests.back()->alive);
  EXPECT_FALSE(reflector_.status().watching);
  EXPECT_THAT(reflector_.status().last_error, HasSubstr("too old"));
  run(seconds(1));
  EXPECT_TRUE(asked("/api/v1/services?limit=500"));
  EXPECT_FALSE(asked("resourceVersion"));

  // A page that fails ends nothing, and the sink keeps all it has until the list is whole.
  answer(list("200", {service("a", "1")}, "more"));
  const FakeTransport::Request page = transport_.last();
  page.head(200);
  page.data(R"({"kind":"Servi)");
  page.end(reset());
  run(seconds(2));
  EXPECT_TRUE(asked("continue=more"));
  refuse(410);
  run(seconds(1));
  EXPECT_TRUE(transport_.last().http.target == "/api/v1/services");
  EXPECT_THAT(sink_.calls, IsEmpty());
  answer(list("300", {service("c", "101"), service("x", "250")}));
  EXPECT_THAT(sink_.take(),
              ElementsAre("begin Service", "put shop/c", "put shop/x", "end Service", "flush"));
  EXPECT_TRUE(asked("watch=1&resourceVersion=300"));
}

TEST_F(ReflectorTest, AMalformedListIsNoList) {
  for (const std::string text : {"<html>", R"({"kind":"ServiceList"})", ""}) {
    answer(text);
    EXPECT_THAT(sink_.calls, IsEmpty()) << text;
    run(minutes(1));
  }
  EXPECT_EQ(count(), 4U);
  answer(list("100", {}));
  EXPECT_THAT(sink_.take(), ElementsAre("begin Service", "end Service", "flush"));
}

TEST_F(ReflectorTest, UnreadableObjectsLeaveTheLastGoodVersion) {
  sync({service("a", "1", "good"), service("b", "2"), service("c", "2")});
  transport_.last().data(event("MODIFIED", broken("a")) + event("ADDED", service("d", "102")));
  EXPECT_THAT(sink_.take(), ElementsAre("put shop/d", "flush"));
  EXPECT_EQ(sink_.held["shop/a"], "good");
  EXPECT_EQ(reflector_.status().undecodable, 1U);

  // Also over a list, which is then spelt out: b is gone, a is there but unreadable.
  transport_.last().data(event("ERROR", status_object(410, "old")));
  run(seconds(2));
  answer(list("200", {broken("a"), service("c", "150"), service("d", "102"), broken("new")}));
  EXPECT_THAT(sink_.take(),
              ElementsAre("put shop/c", "put shop/d", "erase Service shop/b", "flush"));
  EXPECT_EQ(sink_.held["shop/a"], "good");
  EXPECT_EQ(reflector_.status().undecodable, 3U);

  // It is still known, so its end is too.
  transport_.last().head(200);
  transport_.last().data(event("ERROR", status_object(410, "old")));
  run(seconds(5));
  answer(list("300", {broken("new")}));
  EXPECT_THAT(sink_.held, IsEmpty());
}

TEST_F(ReflectorTest, AFirstListWithUnreadableObjectsSyncs) {
  answer(list("100", {broken("a"), service("b", "1")}));
  EXPECT_THAT(sink_.take(), ElementsAre("begin Service", "put shop/b", "end Service", "flush"));
}

TEST_F(ReflectorTest, AServerThatIsAway) {
  sync({service("a", "1")});
  transport_.last().data(event("ADDED", service("b", "105")));
  sink_.calls.clear();
  run(seconds(10));
  transport_.last().end(reset());
  run();
  EXPECT_TRUE(asked("watch=1&resourceVersion=105"));
  const std::size_t before = count();
  for (int i = 0; i < 20; ++i) {
    transport_.last().end(refused());
    EXPECT_FALSE(reflector_.status().watching);
    run(seconds(31));
    EXPECT_TRUE(asked("watch=1&resourceVersion=105"));
  }
  EXPECT_EQ(count(), before + 20);
  EXPECT_THAT(sink_.calls, IsEmpty());
  transport_.last().head(200);
  EXPECT_TRUE(reflector_.status().watching);
  EXPECT_EQ(reflector_.status().last_error, "");
}

TEST_F(ReflectorTest, HurriesWhenTheServerIsBack) {
  sync({});
  run(seconds(10));
  EXPECT_EQ(recoveries_, 0);
  for (int i = 0; i < 5; ++i) {
    transport_.last().end(refused());
    run(seconds(30));
  }
  transport_.last().end(refused());
  const std::size_t before = count();
  run(seconds(2));
  EXPECT_EQ(count(), before);
  reflector_.hurry();
  run();
  EXPECT_EQ(count(), before + 1);
  reflector_.hurry();
  run();
  EXPECT_EQ(count(), before + 1);
  transport_.last().head(200);
  EXPECT_EQ(recoveries_, 1);

  // A server that asks for patience gets it.
  HttpHead head;
  head.status = 429;
  head.retry_after = seconds(30);
  transport_.last().end(reset());
  run(seconds(30));
  transport_.requests.back()->handler.on_head(head);
  transport_.last().end();
  reflector_.hurry();
  run(seconds(20));
  EXPECT_EQ(count(), before + 2);
}

TEST_F(ReflectorTest, ErrorsAreExplained) {
  refuse(403, status_object(403, "services is forbidden: User x"));
  EXPECT_THAT(reflector_.status().last_error, HasSubstr("403: services is forbidden"));
  run(minutes(1));
  refuse(502, "<html>secret");
  EXPECT_EQ(reflector_.status().last_error, "HTTP status 502");
}

TEST_F(ReflectorTest, ASilentWatchIsReplaced) {
  sync({});
  const auto watch = transport_.requests.back();
  run(seconds(70));
  watch->data(bookmark("101"));
  run(seconds(60));
  watch->data(bookmark("102"));
  run(seconds(99));
  EXPECT_TRUE(watch->alive);
  run(seconds(2));
  EXPECT_FALSE(watch->alive);
  EXPECT_TRUE(watch->distrusted);
  EXPECT_TRUE(asked("watch=1&resourceVersion=102"));
  EXPECT_FALSE(reflector_.status().watching);
  // A second one: perhaps the server's history is another one now.
  transport_.last().head(200);
  run(seconds(102));
  EXPECT_TRUE(asked("/api/v1/services?limit=500"));
}

TEST_F(ReflectorTest, AWatchWithoutBookmarksMayBeSilentToItsEnd) {
  sync({});
  const auto watch = transport_.requests.back();
  run(seconds(329));
  EXPECT_TRUE(watch->alive);
  run(seconds(2));
  EXPECT_FALSE(watch->alive);
}

TEST_F(ReflectorTest, AWatchThatIsNotAnswered) {
  answer(list("100", {}));
  const auto watch = transport_.requests.back();
  run(seconds(61));
  EXPECT_FALSE(watch->alive);
  EXPECT_TRUE(watch->distrusted);
  run(seconds(1));
  EXPECT_TRUE(asked("watch=1&resourceVersion=100"));
}

TEST_F(ReflectorTest, AStreamThatIsNotJson) {
  sync({});
  transport_.last().data("<html>login</html>");
  EXPECT_FALSE(transport_.requests.back()->alive);
  run(seconds(1));
  EXPECT_TRUE(asked("limit=500"));
}

TEST_F(ReflectorTest, WatchesThatEndAtOnceAreNotHurried) {
  sync({});
  const std::size_t before = count();
  for (int i = 0; i < 8; ++i) {
    transport_.last().end();
    run(seconds(31));
    transport_.last().head(200);
  }
  EXPECT_EQ(count(), before + 8);
  transport_.last().end();
  run(milliseconds(500));
  EXPECT_EQ(count(), before + 8);
  EXPECT_FALSE(reflector_.status().watching);
}

TEST_F(ReflectorTest, StopsAndStartsAnew) {
  sync({service("a", "1")});
  reflector_.stop();
  EXPECT_FALSE(transport_.requests.back()->alive);
  run(minutes(30));
  EXPECT_EQ(count(), 2U);
  reflector_.start();
  run();
  EXPECT_TRUE(asked("limit=500"));
}

TEST(ReflectorLimits, ListsTakeTurns) {
  const std::unique_ptr<event::SimulatedLoop> loop = event::make_simulated_loop();
  FakeTransport transport;
  FakeSink sink;
  api::Decoder decoder;
  RateLimiter limiter(1, 1);
  Reflector::Shared shared{*loop, transport, decoder, sink, limiter, [] { return 0.0; }, {}};
  const Resource resource{api::Kind::kService, {"/a"}, "", ""};
  Reflector one(shared, resource, {});
  Reflector two(shared, resource, {});
  one.start();
  two.start();
  loop->advance(milliseconds(900));
  EXPECT_EQ(transport.requests.size(), 1U);
  loop->advance(milliseconds(200));
  EXPECT_EQ(transport.requests.size(), 2U);
}

TEST(ApiSource, AsksForItsThreeKinds) {
  const std::unique_ptr<event::SimulatedLoop> loop = event::make_simulated_loop();
  FakeSink sink;
  auto made = std::make_unique<FakeTransport>();
  FakeTransport& transport = *made;
  ApiSource source(*loop, std::move(made), "https://x", "node-1", sink, {});
  source.start();
  loop->advance(milliseconds(1));
  std::vector<std::string> targets;
  targets.reserve(transport.requests.size());
  for (const auto& request : transport.requests) {
    targets.push_back(request->http.target);
  }
  const std::string ours =
      "?labelSelector=%21service.kubernetes.io%2Fheadless%2C%21service.kubernetes.io%2F"
      "service-proxy-name&limit=500";
  EXPECT_THAT(targets, ElementsAre("/api/v1/services" + ours,
                                   "/apis/discovery.k8s.io/v1/endpointslices" + ours,
                                   "/api/v1/nodes?fieldSelector=metadata.name%3Dnode-1&limit=500"));
  EXPECT_FALSE(source.status().synced());

  const auto slices = transport.requests[1];
  slices->head(404);
  slices->end();
  loop->advance(milliseconds(1));
  EXPECT_EQ(transport.last().http.target, "/apis/discovery.k8s.io/v1beta1/endpointslices" + ours);
  EXPECT_THAT(source.status().text(), HasSubstr("EndpointSlice not synced (HTTP status 404)"));
  source.stop();
}

}  // namespace
}  // namespace fairlead::kube
