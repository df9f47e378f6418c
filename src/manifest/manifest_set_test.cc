// SPDX-License-Identifier: Apache-2.0
#include "manifest/manifest_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace fairlead::manifest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::string service(const std::string& name, int port = 80, const std::string& more = "") {
  return "---\napiVersion: v1\nkind: Service\nmetadata: {name: " + name +
         ", namespace: shop}\nspec:\n  selector: {app: " + name +
         "}\n  ports: [{port: " + std::to_string(port) + ", targetPort: 8080}]\n" + more;
}

std::string pod(const std::string& name, const std::string& app, const std::string& ip) {
  return "---\napiVersion: v1\nkind: Pod\nmetadata: {name: " + name +
         ", namespace: shop, labels: {app: " + app + "}}\nstatus: {podIP: " + ip + "}\n";
}

std::string node(const std::string& name) {
  return "---\napiVersion: v1\nkind: Node\nmetadata: {name: " + name + "}\n";
}

class Set : public testing::Test {
 protected:
  void put(const std::string& path, const std::string& text) {
    set.put_file(path, parse(decoder, path, text));
  }
  /// `+Service web`, `+EndpointSlice web 2` (endpoints), `-Node n`.
  std::vector<std::string> changes() {
    std::vector<std::string> out;
    const ManifestSet::Changes made = set.settle();
    out.reserve(made.services.size() + made.slices.size() + made.nodes.size() + made.erased.size());
    for (const auto& each : made.services) {
      out.push_back("+Service " + each->meta.key.name + ":" +
                    std::to_string(net::number(each->ports[0].port)));
    }
    for (const auto& each : made.slices) {
      out.push_back("+Slice " + each->service_name + " " + std::to_string(each->endpoints.size()));
    }
    for (const auto& each : made.nodes) {
      out.push_back("+Node " + each->meta.key.name);
    }
    for (const auto& [kind, key] : made.erased) {
      out.push_back("-" + std::string(api::text(kind)) + " " +
                    key.name.substr(0, key.name.find('~')));
    }
    return out;
  }
  std::vector<std::string> errors() {
    std::vector<std::string> out;
    for (const Problem& problem : set.errors()) {
      out.push_back(problem.text());
    }
    return out;
  }

  api::Decoder decoder;
  ManifestSet set{AllocatorOptions{}};
};

TEST_F(Set, OnlyDifferencesComeOut) {
  put("a.yaml", service("web") + pod("web-1", "web", "198.51.100.1") + node("n"));
  EXPECT_THAT(changes(), UnorderedElementsAre("+Service web:80", "+Slice web 1", "+Node n"));
  EXPECT_THAT(changes(), IsEmpty());
  put("a.yaml", node("n") + service("web") + pod("web-1", "web", "198.51.100.1"));
  EXPECT_THAT(changes(), IsEmpty());
  put("a.yaml", node("n") + service("web", 81) + pod("web-1", "web", "198.51.100.1"));
  EXPECT_THAT(changes(), ElementsAre("+Service web:81"));
  put("b.yaml", pod("web-2", "web", "198.51.100.2"));
  EXPECT_THAT(changes(), ElementsAre("+Slice web 2"));
  set.erase_file("b.yaml");
  EXPECT_THAT(changes(), ElementsAre("+Slice web 1"));
  set.erase_file("a.yaml");
  EXPECT_THAT(changes(), UnorderedElementsAre("-Service web", "-EndpointSlice web", "-Node n"));
}

TEST_F(Set, MovingAnObjectBetweenFilesIsNoChange) {
  put("a.yaml", service("web"));
  EXPECT_THAT(changes(), ElementsAre("+Service web:80"));
  put("a.yaml", "");
  put("b.yaml", service("web"));
  EXPECT_THAT(changes(), IsEmpty());
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Set, BrokenFileKeepsAllItGaveBefore) {
  put("a.yaml", service("web") + service("api"));
  EXPECT_THAT(changes(), ElementsAre("+Service api:80", "+Service web:80"));
  put("a.yaml", service("web", 99) + service("api", 70000) + service("new"));
  EXPECT_THAT(changes(), IsEmpty());
  EXPECT_THAT(errors(),
              ElementsAre(HasSubstr("a.yaml:14:18: Service shop/api: spec.ports[0].port")));
  set.fail_file("a.yaml", "open: Permission denied (EACCES)");
  EXPECT_THAT(changes(), IsEmpty());
  EXPECT_THAT(errors(), ElementsAre("a.yaml: open: Permission denied (EACCES)"));
  put("a.yaml", service("web", 99));
  EXPECT_THAT(changes(), UnorderedElementsAre("+Service web:99", "-Service api"));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Set, FirstOfTwoWinsAndBothAreNamed) {
  put("b.yaml", service("web", 82));
  EXPECT_THAT(changes(), ElementsAre("+Service web:82"));
  put("c.yaml", node("n") + service("web", 83));
  EXPECT_THAT(changes(), ElementsAre("+Node n"));
  EXPECT_THAT(errors(), ElementsAre("c.yaml:6:1: Service shop/web: is also in b.yaml:2:1, and that "
                                    "one is used; remove one of them"));
  put("a.yaml", service("web", 81));
  EXPECT_THAT(changes(), ElementsAre("+Service web:81"));
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("b.yaml:2:1: Service shop/web: is also in a.yaml"),
                                    HasSubstr("c.yaml:6:1: Service shop/web: is also in a.yaml")));
  set.erase_file("a.yaml");
  set.erase_file("b.yaml");
  EXPECT_THAT(changes(), ElementsAre("+Service web:83"));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Set, TwiceInOneFile) {
  put("a.yaml", service("web", 81) + service("web", 82));
  EXPECT_THAT(changes(), ElementsAre("+Service web:81"));
  EXPECT_THAT(errors(),
              ElementsAre(HasSubstr("a.yaml:9:1: Service shop/web: is also in a.yaml:2")));
  put("a.yaml", service("web", 82));
  EXPECT_THAT(changes(), ElementsAre("+Service web:82"));
  EXPECT_THAT(errors(), IsEmpty());
}

TEST_F(Set, AllocationErrorsHaveAPlace) {
  put("a.yaml", service("web", 80, "  clusterIP: 10.96.5.5\n"));
  put("b.yaml", service("api", 80) + service("other", 80, "  clusterIP: 10.96.5.5\n"));
  EXPECT_EQ(changes().size(), 3U);
  EXPECT_THAT(errors(),
              ElementsAre("a.yaml:2:1: Service shop/web: spec.clusterIP: 10.96.5.5 is already "
                          "used by Service shop/other; change one of them"));
}

TEST_F(Set, SlicesOfFilesAreDeliveredAsTheyAre) {
  put("a.yaml", R"(apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [198.51.100.1]}]
ports: [{port: 80}]
---
apiVersion: v1
kind: Endpoints
metadata: {name: old, namespace: shop}
subsets: [{addresses: [{ip: 198.51.100.2}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Service
metadata: {name: old, namespace: shop}
spec: {ports: [{port: 80}]}
)");
  EXPECT_THAT(changes(), UnorderedElementsAre("+Service old:80", "+Slice web 1", "+Slice old 1"));
  set.erase_file("a.yaml");
  EXPECT_THAT(changes(),
              UnorderedElementsAre("-Service old", "-EndpointSlice web-1", "-EndpointSlice old"));
}

}  // namespace
}  // namespace fairlead::manifest
