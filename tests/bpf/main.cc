// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iostream>

#include "router.h"

int main(int count, char** arguments) {
  testing::InitGoogleMock(&count, arguments);
  if (!testing::GTEST_FLAG(list_tests)) {
    try {
      fairlead::packets::become_router();
    } catch (const std::exception& error) {
      std::cerr << error.what() << ": this test needs root and iproute2\n";
      return 2;
    }
  }
  return RUN_ALL_TESTS();
}
