// SPDX-License-Identifier: Apache-2.0
#include "store/store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "model/test_objects.h"

namespace fairlead::store {
namespace {

using namespace fairlead::test;
using api::Kind;
using testing::ElementsAre;
using testing::IsEmpty;

api::EndpointSlice web_slice(const char* name, const char* owner, const char* address) {
  return slice(name, owner, {tcp("", 80)}, {address});
}

api::Node node(const char* name, const char* address) {
  api::Node out;
  out.meta.key = key(name);
  out.internal_ips = ips({address});
  return out;
}

std::vector<std::string> names(const Store& store, const char* service_name) {
  const auto slices = store.slices(key(service_name));
  std::vector<std::string> out;
  out.reserve(slices.size());
  for (const api::EndpointSlice* found : slices) {
    out.push_back(found->meta.key.name);
  }
  return out;
}

TEST(Store, EqualObjectsAreNoChange) {
  Store store("node-1");
  const api::Service web = service("ns/web").cluster("10.96.0.1").tcp("", 80);
  store.put(web);
  store.put(web_slice("ns/web-1", "web", "10.1.0.1"));
  store.put(node("node-1", "192.0.2.1"));
  const Dirty first = store.take_dirty();
  EXPECT_THAT(first.services, ElementsAre(key("ns/web")));
  EXPECT_TRUE(first.node);

  store.put(web);
  store.put(web_slice("ns/web-1", "web", "10.1.0.1"));
  store.put(node("node-1", "192.0.2.1"));
  EXPECT_TRUE(store.take_dirty().empty());

  store.put(web_slice("ns/web-1", "web", "10.1.0.2"));
  EXPECT_THAT(store.take_dirty().services, ElementsAre(key("ns/web")));
}

TEST(Store, SlicesAreFoundByTheirServiceInOrder) {
  Store store("node-1");
  store.put(web_slice("ns/web-2", "web", "10.1.0.2"));
  store.put(web_slice("ns/web-1", "web", "10.1.0.1"));
  store.put(web_slice("other/web-1", "web", "10.1.0.3"));
  EXPECT_THAT(names(store, "ns/web"), ElementsAre("web-1", "web-2"));
  EXPECT_THAT(names(store, "other/web"), ElementsAre("web-1"));
  EXPECT_THAT(names(store, "ns/none"), IsEmpty());
  store.erase(Kind::kEndpointSlice, key("ns/web-1"));
  EXPECT_THAT(names(store, "ns/web"), ElementsAre("web-2"));
}

TEST(Store, ASliceThatMovesDirtiesBothServices) {
  Store store("node-1");
  store.put(web_slice("ns/s", "a", "10.1.0.1"));
  (void)store.take_dirty();
  store.put(web_slice("ns/s", "b", "10.1.0.1"));
  EXPECT_THAT(store.take_dirty().services, ElementsAre(key("ns/a"), key("ns/b")));
  EXPECT_THAT(names(store, "ns/a"), IsEmpty());
  EXPECT_THAT(names(store, "ns/b"), ElementsAre("s"));
}

TEST(Store, ASliceThatLosesItsServiceIsGone) {
  Store store("node-1");
  store.put(web_slice("ns/s", "a", "10.1.0.1"));
  (void)store.take_dirty();
  store.put(web_slice("ns/s", "", "10.1.0.1"));
  EXPECT_THAT(store.take_dirty().services, ElementsAre(key("ns/a")));
  EXPECT_EQ(store.slice_count(), 0U);
}

TEST(Store, EraseOfTheUnknownIsNoChange) {
  Store store("node-1");
  store.erase(Kind::kService, key("ns/a"));
  store.erase(Kind::kEndpointSlice, key("ns/a"));
  store.erase(Kind::kNode, key("node-1"));
  EXPECT_TRUE(store.take_dirty().empty());
}

TEST(Store, OnlyOurNodeCounts) {
  Store store("node-1");
  store.put(node("node-2", "192.0.2.2"));
  EXPECT_EQ(store.node(), nullptr);
  store.put(node("node-1", "192.0.2.1"));
  ASSERT_NE(store.node(), nullptr);
  EXPECT_TRUE(store.take_dirty().node);
  store.erase(Kind::kNode, key("node-2"));
  EXPECT_FALSE(store.take_dirty().node);
  store.erase(Kind::kNode, key("node-1"));
  EXPECT_EQ(store.node(), nullptr);
  EXPECT_TRUE(store.take_dirty().node);
}

TEST(Store, ReplaceSweepsWhatWasNotPut) {
  Store store("node-1");
  const api::Service a = service("ns/a").cluster("10.96.0.1").tcp("", 80);
  const api::Service b = service("ns/b").cluster("10.96.0.2").tcp("", 80);
  store.put(a);
  store.put(b);
  store.put(web_slice("ns/a-1", "a", "10.1.0.1"));
  store.put(web_slice("ns/b-1", "b", "10.1.0.1"));
  store.put(node("node-1", "192.0.2.1"));
  (void)store.take_dirty();

  store.replace_begin(Kind::kService);
  store.put(a);
  store.replace_end(Kind::kService);
  EXPECT_THAT(store.take_dirty().services, ElementsAre(key("ns/b")));
  EXPECT_EQ(store.service(key("ns/b")), nullptr);
  EXPECT_EQ(store.slice_count(), 2U) << "other kinds are not touched";

  store.replace_begin(Kind::kEndpointSlice);
  store.put(web_slice("ns/b-1", "b", "10.1.0.1"));
  store.replace_end(Kind::kEndpointSlice);
  EXPECT_THAT(store.take_dirty().services, ElementsAre(key("ns/a")));

  store.replace_begin(Kind::kNode);
  store.replace_end(Kind::kNode);
  EXPECT_EQ(store.node(), nullptr);
  EXPECT_TRUE(store.take_dirty().node);
}

TEST(Store, ABrokenOffReplaceRemovesNothing) {
  Store store("node-1");
  const api::Service a = service("ns/a").cluster("10.96.0.1").tcp("", 80);
  const api::Service b = service("ns/b").cluster("10.96.0.2").tcp("", 80);
  store.put(a);
  store.put(b);
  store.replace_begin(Kind::kService);
  store.put(a);
  // The connection broke; the list starts again.
  store.replace_begin(Kind::kService);
  store.put(b);
  store.replace_end(Kind::kService);
  EXPECT_EQ(store.service(key("ns/a")), nullptr);
  EXPECT_NE(store.service(key("ns/b")), nullptr);
}

TEST(Store, SyncedPerKindAndOverall) {
  Store store("node-1");
  for (const Kind kind : {Kind::kService, Kind::kEndpointSlice, Kind::kNode}) {
    EXPECT_FALSE(store.synced());
    store.replace_begin(kind);
    EXPECT_FALSE(store.synced(kind));
    store.replace_end(kind);
    EXPECT_TRUE(store.synced(kind));
  }
  EXPECT_TRUE(store.synced());
  store.replace_begin(Kind::kService);
  EXPECT_TRUE(store.synced()) << "a relist does not take it back";
}

TEST(Store, FlushTellsOnceAndOnlyIfThereIsSomething) {
  Store store("node-1");
  int calls = 0;
  store.set_on_dirty([&] { ++calls; });
  store.flush();
  EXPECT_EQ(calls, 0);
  store.put(service("ns/a").cluster("10.96.0.1").tcp("", 80));
  store.put(service("ns/b").cluster("10.96.0.2").tcp("", 80));
  EXPECT_EQ(calls, 0);
  store.flush();
  EXPECT_EQ(calls, 1);
  store.flush();
  EXPECT_EQ(calls, 2) << "not taken yet";
  (void)store.take_dirty();
  store.flush();
  EXPECT_EQ(calls, 2);
  store.replace_begin(Kind::kNode);
  store.replace_end(Kind::kNode);
  store.flush();
  EXPECT_EQ(calls, 3) << "an empty kind became synced";
  store.flush();
  EXPECT_EQ(calls, 3);
}

}  // namespace
}  // namespace fairlead::store
