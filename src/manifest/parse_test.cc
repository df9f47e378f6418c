// SPDX-License-Identifier: Apache-2.0
#include "manifest/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace fairlead::manifest {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

ParsedFile parse_text(const std::string& text, const std::string& path = "shop.yaml") {
  api::Decoder decoder;
  return parse(decoder, path, text);
}

/// `name@line` of each object.
std::vector<std::string> names(const ParsedFile& file) {
  std::vector<std::string> out;
  out.reserve(file.objects.size());
  for (const ParsedObject& object : file.objects) {
    out.push_back(
        std::visit([](const auto& value) { return value->meta.key.text(); }, object.object) + "@" +
        std::to_string(object.mark.line));
  }
  return out;
}

std::vector<std::string> errors(const ParsedFile& file) {
  std::vector<std::string> out;
  out.reserve(file.errors.size());
  for (const Problem& problem : file.errors) {
    out.push_back(problem.text());
  }
  return out;
}

constexpr const char* kTwo = R"(apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports:
  - port: 80
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
spec: {}
)";

TEST(Parse, DocumentsAndOtherKinds) {
  const ParsedFile file = parse_text(kTwo);
  EXPECT_THAT(errors(file), IsEmpty());
  EXPECT_THAT(names(file), ElementsAre("shop/web@1", "shop/web-1@12"));
  ASSERT_EQ(file.skipped.size(), 1U);
  EXPECT_EQ(file.skipped.front().kind, "ConfigMap");
}

TEST(Parse, EmptyFileGivesNothing) {
  EXPECT_THAT(names(parse_text("")), IsEmpty());
  EXPECT_THAT(errors(parse_text("# nothing yet\n---\n")), IsEmpty());
  EXPECT_THAT(errors(parse_text("", "empty.json")), IsEmpty());
}

TEST(Parse, ErrorsNameLineObjectAndField) {
  const ParsedFile file = parse_text(R"(apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports:
  - name: a
    port: 80
  - name: b
    port: 70000
---
apiVersion: v1
kind: Service
metadata: {name: good, namespace: shop}
spec:
  ports:
  - port: 80
---
- not an object
)");
  ASSERT_EQ(file.errors.size(), 2U);
  EXPECT_THAT(file.errors[0].text(),
              HasSubstr("shop.yaml:9:11: Service shop/web: spec.ports[1].port: "));
  EXPECT_THAT(file.errors[1].text(), HasSubstr("shop.yaml:18:1: is not an object"));
  EXPECT_THAT(names(file), ElementsAre("shop/good@11"));
}

TEST(Parse, YamlErrorEndsTheReading) {
  const ParsedFile file = parse_text(std::string(kTwo) + "---\na: [\n");
  EXPECT_EQ(names(file).size(), 2U);
  EXPECT_THAT(errors(file), ElementsAre(HasSubstr("is not YAML")));
}

TEST(Parse, ListsGiveItemsWithTheirPlaces) {
  const ParsedFile file = parse_text(R"(apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: a}
  spec: {ports: [{port: 1}]}
- apiVersion: v1
  kind: ServiceList
  items:
  - metadata: {name: b}
    spec: {ports: [{port: 2}]}
- apiVersion: v1
  kind: Service
  metadata: {name: c}
  spec: {ports: [{port: 0}]}
- apiVersion: v1
  kind: Node
  metadata: {name: n}
)");
  EXPECT_THAT(names(file), ElementsAre("default/a@4", "default/b@11", "n@17"));
  EXPECT_THAT(errors(file),
              ElementsAre(HasSubstr("shop.yaml:16:25: Service default/c: items[2].spec.ports[0]")));
}

TEST(Parse, JsonByNameAndByLook) {
  const std::string json = R"({"apiVersion": "v1", "kind": "Service",
    "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})";
  EXPECT_THAT(names(parse_text(json, "a.json")), ElementsAre("default/web@1"));
  EXPECT_THAT(names(parse_text(json, "a.yaml")), ElementsAre("default/web@1"));
  EXPECT_THAT(names(parse_text("\xef\xbb\xbf" + json, "a.json")), ElementsAre("default/web@1"));
  // Braces are YAML, too.
  const std::string flow = "{apiVersion: v1, kind: Node, metadata: {name: n}}";
  EXPECT_THAT(names(parse_text(flow, "a.yaml")), ElementsAre("n@1"));
  EXPECT_THAT(errors(parse_text(flow, "a.json")),
              ElementsAre(HasSubstr("a.json:1:2: is not JSON")));
}

TEST(Parse, MessagesHoldNoControlCharacters) {
  EXPECT_THAT(errors(parse_text("\"a\\e[31m\": 1\n\"a\\e[31m\": 2\n")),
              ElementsAre(HasSubstr("shop.yaml:2:1: key \"a?[31m\" is already given")));
}

TEST(Parse, ControlCharactersAreRefused) {
  EXPECT_THAT(errors(parse_text("kind: Service\n# \x04\n")),
              ElementsAre(HasSubstr("shop.yaml:2:3: has a control character")));
}

}  // namespace
}  // namespace fairlead::manifest
