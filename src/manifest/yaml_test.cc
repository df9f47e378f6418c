// SPDX-License-Identifier: Apache-2.0
#include "manifest/yaml.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <string>

namespace fairlead::manifest {
namespace {

using testing::HasSubstr;

/// All documents as JSON, one per line, or `line:column problem`.
std::string summary(const Documents& read, Budget& budget) {
  std::string out;
  for (const Document& document : read.documents) {
    const auto json = to_json(document, document.root, budget);
    out += json ? *json
                : std::to_string(json.error().mark.line) + ":" +
                      std::to_string(json.error().mark.column) + " " + json.error().problem;
    out += "\n";
  }
  if (read.error) {
    out += std::to_string(read.error->mark.line) + ":" + std::to_string(read.error->mark.column) +
           " " + read.error->problem + "\n";
  }
  return out.empty() ? out : out.substr(0, out.size() - 1);
}

std::string yaml(const std::string& text) {
  Budget budget = Budget::for_text(text);
  return summary(read_yaml(text, budget), budget);
}

std::string json(const std::string& text) {
  Budget budget = Budget::for_text(text);
  return summary(read_json(text), budget);
}

struct Case {
  std::string name;
  std::string text;
  std::string want;  // a part of the summary if it is an error
};

std::string case_name(const testing::TestParamInfo<Case>& param_info) {
  return param_info.param.name;
}

class Yaml : public testing::TestWithParam<Case> {};

TEST_P(Yaml, BecomesJson) { EXPECT_THAT(yaml(GetParam().text), HasSubstr(GetParam().want)); }

INSTANTIATE_TEST_SUITE_P(
    Scalars, Yaml,
    testing::Values(
        Case{"Plain", "{a: true, b: False, c: null, d: ~, e: , f: text}",
             R"({"a":true,"b":false,"c":null,"d":null,"e":null,"f":"text"})"},
        Case{"NotOfTheOldSchema", "{a: yes, b: on, c: 1_000, d: 190:20:30, e: 0b1}",
             R"({"a":"yes","b":"on","c":"1_000","d":"190:20:30","e":"0b1"})"},
        Case{"Quoted", R"({a: "true", b: '12', c: "", d: "null"})",
             R"({"a":"true","b":"12","c":"","d":"null"})"},
        Case{"Integers", "[0, 007, +12, -3, 0x1F, 0o17, 10.96.0.1, 12345678901234567890123]",
             R"([0,7,12,-3,31,15,"10.96.0.1",12345678901234567890123])"},
        Case{"Floats", "[1.5, .5, 1., -0.0, 1e3, +1.5E-2, ., e3, 1e, .inf]",
             R"([1.5,0.5,1,-0.0,1e3,1.5E-2,".","e3","1e",".inf"])"},
        Case{"Tags", R"([!!str 12, !!int "7", !!bool "true", !!null "", ! 5])",
             R"(["12",7,true,null,"5"])"},
        Case{"WrongTag", "a: !!int x", "1:4 has a tag (tag:yaml.org,2002:int)"},
        Case{"UnknownTag", "a: !secret x", "1:4 has a tag (!secret)"},
        Case{"TagOfAList", "a: !!map [x]", "1:4 has a tag"},
        Case{"Blocks", "a: |\n  x\n  y\nb: >-\n  x\n  y\n", R"({"a":"x\u000ay\u000a","b":"x y"})"},
        Case{"Escapes", R"({a: "\u00e9\t\x41\"\\/"})", "{\"a\":\"\xc3\xa9\\u0009A\\\"\\\\/\"}"},
        Case{"KeysAreText", "{1: a, 1.0: b, true: c, ~: d}",
             R"({"1":"a","1.0":"b","true":"c","null":"d"})"}),
    case_name);

INSTANTIATE_TEST_SUITE_P(
    Structure, Yaml,
    testing::Values(
        Case{"Documents", "---\na: 1\n---\n# nothing\n---\nb: 2\n...\n---\nc: 3\n",
             "{\"a\":1}\n{\"b\":2}\n{\"c\":3}"},
        Case{"DocumentAfterEndMark", "a: 1\n...\n# then\nb: 2\n", "{\"a\":1}\n{\"b\":2}"},
        Case{"Directive", "%YAML 1.2\n---\na: 1\n", R"({"a":1})"},
        Case{"Crlf", "a:\r\n  - 1\r\n  - 2\r\n", R"({"a":[1,2]})"},
        Case{"Alias", "a: &x {k: [1]}\nb: *x\nc: [*x]\n",
             R"({"a":{"k":[1]},"b":{"k":[1]},"c":[{"k":[1]}]})"},
        Case{"AliasAsKey", "a: &x name\n*x : 1\n", R"({"a":"name","name":1})"},
        Case{"AliasOfSelf", "a: &x [*x]\n", "1:8 alias points to what it is a part of"},
        Case{"AliasAcrossDocuments", "a: &x 1\n---\nb: *x\n", "3:4 is not YAML"},
        Case{"Merge", "a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  l: 3\n", R"("b":{"l":3,"k":1})"},
        Case{"MergeList", "a: &x {k: 1}\nb: &y {k: 2, l: 2}\nc: {<<: [*x, *y]}\n",
             R"("c":{"k":1,"l":2})"},
        Case{"QuotedMergeIsAKey", "'<<': 1", R"({"<<":1})"},
        Case{"MergeOfText", "<<: x", "1:5 a merge key (<<) takes a map"},
        Case{"RepeatedKey", "a: 1\nb:\n  c: 1\n  c: 2\n",
             R"(4:3 key "c" is already given in line 3)"},
        Case{"RepeatedKeyByQuotes", "a: 1\n\"a\": 2\n", "2:1 key \"a\""},
        Case{"KeyIsAList", "[a]: 1", "1:1 a key must be plain text"},
        Case{"Tab", "a:\n\tb: 1\n", "2:3 is not YAML"},
        Case{"OpenBracket", "a: [1\nb: 2\n", " is not YAML"},
        Case{"StrayBracket", "a: 1\n]\n", "2:1 is not YAML"},
        Case{"StrayBraceAmidLine", "{a: 1} }", "1:8 is not YAML"},
        Case{"TextAfterDocument", "- a\nb: 1\n", "2:1 is not"},
        Case{"OpenQuote", "a: \"x\nb: 1\n", "1:4 is not YAML: this text has no closing quote"},
        Case{"OpenSingleQuote", "\xc3\xa9: 'x''\n", "1:5 is not YAML: this text has no closing"},
        Case{"ClosedQuotes", "\xc3\xa9: 'x''y'\nb: \"\\\"\"\n", "{\"\xc3\xa9\":\"x'y\""},
        Case{"GoodBeforeBad", "a: 1\n---\nb: [\n", "{\"a\":1}\n"},
        Case{"HugeVersion", "%YAML 99999999999999.1\n---\na: 1\n", "is not YAML"}),
    case_name);

std::string anchored_list(int index, const std::string& items) {
  const std::string n = std::to_string(index);
  return "a" + n + ": &a" + n + " [" + items + "]\n";
}

TEST(YamlBounds, Depth) {
  const std::string deep(150, '[');
  EXPECT_THAT(yaml(deep + std::string(150, ']')), HasSubstr("nested deeper than 100"));
  std::string chain = "a0: &a0 [x]\n";
  for (int i = 1; i < 150; ++i) {
    chain += anchored_list(i, "*a" + std::to_string(i - 1));
  }
  EXPECT_THAT(yaml(chain), HasSubstr("nested deeper than 100"));
  EXPECT_THAT(yaml(std::string(100000, '[')), HasSubstr("1:1 "));
}

TEST(YamlBounds, AliasBomb) {
  std::string bomb = "a0: &a0 xxxxxxxxxxxxxxxxxxxx\n";
  for (int i = 1; i < 20; ++i) {
    std::string list;
    for (int j = 0; j < 10; ++j) {
      list += (j == 0 ? "*a" : ", *a") + std::to_string(i - 1);
    }
    bomb += anchored_list(i, list);
  }
  EXPECT_THAT(yaml(bomb), HasSubstr("far too large"));
}

TEST(YamlBounds, MergeBomb) {
  std::string bomb = "m0: &m0 {";
  for (int i = 0; i < 2000; ++i) {
    bomb += "k" + std::to_string(i) + ": 1, ";
  }
  bomb += "}\n";
  for (int i = 1; i < 2000; ++i) {
    bomb += "m" + std::to_string(i) + ": {<<: *m0}\n";
  }
  EXPECT_THAT(yaml(bomb), HasSubstr("far too large"));
}

class Json : public testing::TestWithParam<Case> {};

TEST_P(Json, IsRead) { EXPECT_THAT(json(GetParam().text), HasSubstr(GetParam().want)); }

INSTANTIATE_TEST_SUITE_P(
    All, Json,
    testing::Values(Case{"Values",
                         R"({"a": [1, -2.5e3, true, false, null, "x"], "b": {}, "c": []})",
                         R"({"a":[1,-2.5e3,true,false,null,"x"],"b":{},"c":[]})"},
                    Case{"Escapes", R"(["\/\"\\\n", "\u00e9", "\ud83d\ude00", "10\/8"])",
                         "[\"/\\\"\\\\\\u000a\",\"\xc3\xa9\",\"\xf0\x9f\x98\x80\",\"10/8\"]"},
                    Case{"Several", "{\"a\":1}\n{\"b\":2}", "{\"a\":1}\n{\"b\":2}"},
                    Case{"LoneSurrogate", R"(["\ud83d"])", "1:3 is not JSON: this escape"},
                    Case{"LowSurrogateFirst", R"(["\ude00\ud83d"])", "this escape"},
                    Case{"RepeatedKey", "{\"a\":1,\n \"a\":2}", "2:2 key \"a\" is given twice"},
                    Case{"TrailingComma", "[1,]", "1:4 is not JSON: a value is missing"},
                    Case{"MissingComma", "{\"a\":1\n\"b\":2}", "2:1 is not JSON: a comma or }"},
                    Case{"LeadingZero", "[01]", "1:2 is not JSON"},
                    Case{"BareWord", "{a: 1}", "1:2 is not"},
                    Case{"Unclosed", "{\"a\": [1, {\"b\": \"x", "is not JSON"},
                    Case{"NewlineInText", "[\"a\nb\"]", "no closing double quote"},
                    Case{"Deep", std::string(200, '['), "nested deeper"}),
    case_name);

TEST(CheckText, PlacesOfBadBytes) {
  struct TextCase {
    std::string text;
    int line;
    int column;
  };
  for (const TextCase& c :
       std::vector<TextCase>{{"a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\t\r\n", 0, 0},
                             {"a\nb\x04", 2, 2},
                             {"\xff", 1, 1},
                             {"a\xc0\x80", 1, 2},
                             {"\xed\xa0\x80", 1, 1},
                             {"\xf4\x90\x80\x80", 1, 1},
                             {"\xe2\x82", 1, 1},
                             {std::string("x\0", 2), 1, 2}}) {
    const auto error = check_text(c.text);
    EXPECT_EQ(error.has_value(), c.line != 0) << c.text;
    if (error) {
      EXPECT_EQ(error->mark, (Mark{c.line, c.column})) << error->problem;
    }
  }
}

TEST(Locate, DeepestPartThatIsThere) {
  const std::string text =
      "metadata:\n"                      // 1
      "  labels:\n"                      // 2
      "    app.kubernetes.io/name: x\n"  // 3
      "    app: y\n"                     // 4
      "spec:\n"                          // 5
      "  ports:\n"                       // 6
      "  - port: 1\n"                    // 7
      "  - {port: 2, name: n}\n";        // 8
  Budget budget = Budget::for_text(text);
  const Documents read = read_yaml(text, budget);
  ASSERT_EQ(read.documents.size(), 1U);
  const Document& document = read.documents.front();
  const auto at = [&](const std::string& field) { return locate(document, document.root, field); };
  EXPECT_EQ(at(""), (Mark{1, 1}));
  EXPECT_EQ(at("spec.ports[0].port"), (Mark{7, 11}));
  EXPECT_EQ(at("spec.ports[1].name"), (Mark{8, 21}));
  EXPECT_EQ(at("spec.ports[1].protocol"), (Mark{8, 5}));
  EXPECT_EQ(at("spec.ports[2].port"), (Mark{6, 3}));
  EXPECT_EQ(at("spec.selector"), (Mark{5, 1}));
  EXPECT_EQ(at("metadata.labels.app.kubernetes.io/name"), (Mark{3, 29}));
  EXPECT_EQ(at("metadata.labels[app.kubernetes.io/name]"), (Mark{3, 29}));
  EXPECT_EQ(at("metadata.labels[\"app\"]"), (Mark{4, 10}));
  EXPECT_EQ(at("status"), (Mark{1, 1}));
  EXPECT_EQ(at("spec.ports[x"), (Mark{6, 3}));
}

}  // namespace
}  // namespace fairlead::manifest
