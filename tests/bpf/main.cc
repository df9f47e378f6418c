// SPDX-License-Identifier: Apache-2.0
#include <exception>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <iostream>
#include <string_view>

#include "programs.h"
#include "router.h"

int main(int count, char** arguments) {
  testing::InitGoogleMock(&count, arguments);
  for (int i = 1; i < count; ++i) {
    if (std::string_view(arguments[i]) != "--old") {
      std::cerr << "unknown option " << arguments[i] << "; ours is --old\n";
      return 2;
    }
    fairlead::packets::force_old_kernels_programs();
  }
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
