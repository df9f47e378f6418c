// SPDX-License-Identifier: Apache-2.0
// Pings to service addresses, and errors about what was translated.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fixture.h"
#include "packets.h"
#include "programs.h"

namespace fairlead::packets {
namespace {

TEST_P(ByFamily, PingsAreAnswered) {
  programs.add({.address = vip()});
  for (const std::size_t payload : {0U, 1U, 56U, 1400U}) {
    const Bytes request = build_echo(f.client, f.virtual_server, payload);
    const Verdict verdict = programs.in(request);
    ASSERT_EQ(verdict.action, kRedirect);
    ASSERT_EQ(verdict.frame.size(), request.size());
    const Read answer = read(verdict.frame);
    const Read asked = read(request);
    EXPECT_EQ(answer.text(), f.virtual_server + " > " + f.client);
    EXPECT_EQ(answer.icmp_type, f.name == "v4" ? 0 : 129);
    EXPECT_EQ(answer.icmp_code, 0);
    EXPECT_EQ(answer.icmp_rest, asked.icmp_rest);
    EXPECT_EQ(answer.ttl, 64);
    EXPECT_EQ(answer.destination_mac, asked.source_mac);
    EXPECT_EQ(answer.source_mac, asked.destination_mac);
    const auto tail = static_cast<std::ptrdiff_t>(payload);
    EXPECT_TRUE(std::equal(request.end() - tail, request.end(), verdict.frame.end() - tail));
  }
}

// Fragment by fragment: what comes back is the answer in the same pieces.
TEST_P(ByFamily, PingsInFragmentsAreAnswered) {
  programs.add({.address = vip()});
  const auto request = build_echo_fragments(f.client, f.virtual_server, 3000, 1232);
  const auto answer = build_echo_fragments(f.virtual_server, f.client, 3000, 1232, true);
  ASSERT_EQ(request.size(), 3U);
  const auto behind_link = [](const Bytes& frame) {
    return Bytes(frame.begin() + 14, frame.end());
  };
  EXPECT_EQ(programs.in(request[1]).action, kPass) << "what it is of is not known yet";
  for (const std::size_t i : {0U, 2U, 1U}) {
    const Verdict verdict = programs.in(request[i]);
    ASSERT_EQ(verdict.action, kRedirect) << i;
    EXPECT_EQ(behind_link(verdict.frame), behind_link(answer[i])) << i;
  }
}

TEST_P(ByFamily, FragmentsOfOtherPingsPass) {
  programs.add({.address = f.at(f.node, 30080), .servers = {{server()}}, .on_node = true});
  programs.add({.address = vip()});
  for (const Bytes& fragment : build_echo_fragments(f.client, f.node, 3000, 1232)) {
    const Verdict verdict = programs.in(fragment);
    EXPECT_EQ(verdict.action, kPass);
    EXPECT_EQ(verdict.frame, fragment);
  }
  for (const Bytes& fragment : build_echo_fragments(f.client, f.virtual_server, 3000, 1232)) {
    EXPECT_EQ(programs.out(fragment).action, kPass);
  }
  for (const Bytes& fragment : build_echo_fragments(f.client, f.virtual_server, 3000, 1232, true)) {
    EXPECT_EQ(programs.in(fragment).action, kPass) << "an answer to nobody's ping";
  }
}

TEST_P(ByFamily, PingsToOthersPass) {
  programs.add({.address = f.at(f.node, 30080), .servers = {{server()}}, .on_node = true});
  programs.add({.address = vip()});
  for (const std::string& address : {f.node, f.server}) {
    const Bytes request = build_echo(f.client, address, 56);
    const Verdict verdict = programs.in(request);
    EXPECT_EQ(verdict.action, kPass);
    EXPECT_EQ(verdict.frame, request);
  }
  const Bytes leaving = build_echo(f.client, f.virtual_server, 56);
  EXPECT_EQ(programs.out(leaving).action, kPass);
  EXPECT_EQ(programs.in(programs.in(leaving).frame).action, kPass) << "an answer to nobody's ping";
}

TEST_P(ByFamily, ErrorsAboutRequests) {
  protocol = IPPROTO_UDP;
  const std::uint8_t unreachable = f.name == "v4" ? 3 : 1;
  programs.add({.address = vip(), .protocol = protocol, .servers = {{server()}}});
  const Verdict there = in(client(), vip());
  // The server's host says that nobody listens: on its way out to the client.
  const Verdict plain = programs.out(build_error(f.server, f.client, unreachable, 3, there.frame));
  Read seen = read(plain.frame);
  EXPECT_EQ(seen.text(), f.virtual_server + " > " + f.client);
  EXPECT_EQ(seen.quoted_source + " > " + seen.quoted_destination, client() + " > " + vip());
}

TEST_P(ByFamily, ErrorsAboutHiddenClients) {
  protocol = IPPROTO_UDP;
  const std::uint8_t unreachable = f.name == "v4" ? 3 : 1;
  programs.add(
      {.address = vip(), .protocol = protocol, .servers = {{server()}}, .masquerade = true});
  const Verdict there = in(client(), vip());
  const Verdict onward = programs.out(there.frame);
  const Verdict inside = programs.in(build_error(f.server, f.node, unreachable, 3, onward.frame));
  Read seen = read(inside.frame);
  EXPECT_EQ(seen.text(), f.server + " > " + f.client);
  EXPECT_EQ(seen.quoted_source + " > " + seen.quoted_destination, client() + " > " + server());
  seen = read(programs.out(inside.frame).frame);
  EXPECT_EQ(seen.text(), f.virtual_server + " > " + f.client);
  EXPECT_EQ(seen.quoted_source + " > " + seen.quoted_destination, client() + " > " + vip());
}

TEST_P(ByFamily, ErrorsAboutReplies) {
  protocol = IPPROTO_UDP;
  for (const bool hidden : {false, true}) {
    const int port = hidden ? 81 : 80;
    programs.add({.address = vip(port),
                  .protocol = protocol,
                  .servers = {{server()}},
                  .masquerade = hidden});
    const Verdict onward = programs.out(in(client(port), vip(port)).frame);
    const std::string shown = read(onward.frame).source;
    if (hidden) {
      (void)in(server(), shown);
    }
    const Verdict home = out(server(), client(port));
    // A router on the client's side: the reply was too big.
    const Verdict inside = programs.in(build_error(
        f.router, f.virtual_server, f.name == "v4" ? 3 : 2, f.name == "v4" ? 4 : 0, home.frame));
    Read seen = read(inside.frame);
    EXPECT_EQ(seen.text(), f.router + " > " + f.server);
    EXPECT_EQ(seen.quoted_source + " > " + seen.quoted_destination,
              server() + " > " + client(port));
    seen = read(programs.out(inside.frame).frame);
    EXPECT_EQ(seen.quoted_source + " > " + seen.quoted_destination, server() + " > " + shown);
  }
}

}  // namespace
}  // namespace fairlead::packets
