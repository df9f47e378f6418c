// SPDX-License-Identifier: Apache-2.0
#include "kube/base64.h"

#include <gtest/gtest.h>

namespace fairlead::kube {
namespace {

TEST(Base64, Decodes) {
  struct Case {
    std::string text;
    std::optional<std::string> want;
  };
  for (const Case& c : std::vector<Case>{
           {"", ""},
           {"QQ==", "A"},
           {"QUI=", "AB"},
           {"QUJD", "ABC"},
           {"QUJDRA==", "ABCD"},
           {"QUI", "AB"},
           {"QU\n JD\r\n", "ABC"},
           {"//8=", "\xff\xff"},
           {"+/+/", "\xfb\xff\xbf"},
           {"Q", std::nullopt},
           {"Q===", std::nullopt},
           {"QUI=QUI=", std::nullopt},
           {"QU-_", std::nullopt},
           {"====", std::nullopt},
       }) {
    EXPECT_EQ(decode_base64(c.text), c.want) << c.text;
  }
}

}  // namespace
}  // namespace fairlead::kube
