// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/iptables.h"

#include <algorithm>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <vector>

#include "base/text.h"

namespace fairlead::dataplane::ipvs {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

net::IpPrefix prefix(std::string_view text) { return net::IpPrefix::parse(text).value(); }

std::vector<std::string> lines_of(const std::vector<Rule>& rules, std::string_view chain = "") {
  std::vector<std::string> out;
  for (const Rule& rule : rules) {
    if (chain.empty()) {
      out.push_back(rule.chain + " " + rule.spec);
    } else if (rule.chain == chain) {
      out.push_back(rule.spec);
    }
  }
  return out;
}

// What a program would show after taking `input` on top of `saved`.
SavedTable after_restore(SavedTable saved, const std::string& input) {
  for (const std::string_view line : split(input, '\n')) {
    const auto words = split(line, ' ');
    const std::string chain = words.size() > 1 ? std::string(words[1]) : "";
    if (line.starts_with(":")) {
      const std::string name(words[0].substr(1));
      if (std::ranges::find(saved.chains, name) == saved.chains.end()) {
        saved.chains.push_back(name);
      }
      std::erase_if(saved.rules, [&](const Rule& rule) { return rule.chain == name; });
    } else if (line.starts_with("-A ")) {
      saved.rules.push_back({chain, std::string(line.substr(chain.size() + 4))});
    } else if (line.starts_with("-I ")) {
      saved.rules.insert(saved.rules.begin(), {chain, std::string(line.substr(chain.size() + 6))});
    } else if (line.starts_with("-D ")) {
      const std::string spec(line.substr(chain.size() + 4));
      const auto found = std::ranges::find(saved.rules, Rule{chain, spec});
      EXPECT_NE(found, saved.rules.end()) << line;
      saved.rules.erase(found);
    } else if (line.starts_with("-X ")) {
      EXPECT_THAT(saved.chains, Contains(chain));
      std::erase(saved.chains, chain);
    }
  }
  return saved;
}

// --- Rules ---------------------------------------------------------------------------------------

TEST(Rules, NatIpv4) {
  IptablesConfig config;
  config.local_traffic = prefix("10.244.0.0/16");
  EXPECT_EQ(restore_input(config, Table::kNat, true, jumps(Table::kNat)),
            R"(*nat
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-LOAD-BALANCER -m comment --comment "Kubernetes service load balancer ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-LOAD-BALANCER-LOCAL dst,dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-TCP dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-UDP dst -j RETURN
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type 'hash ip:port'" -m set --match-set KUBE-NODE-PORT-LOCAL-SCTP-HASH dst,dst -j RETURN
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'" -m set --match-set KUBE-NODE-PORT-SCTP-HASH dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m set --match-set KUBE-LOAD-BALANCER dst,dst -j ACCEPT
-A KUBE-POSTROUTING -m mark ! --mark 0x00004000/0x00004000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x00004000
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x00004000
-I OUTPUT 1 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I PREROUTING 1 -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-I POSTROUTING 1 -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
COMMIT
)");
}

TEST(Rules, FilterIpv4) {
  EXPECT_EQ(restore_input({}, Table::kFilter, true, jumps(Table::kFilter)),
            R"(*filter
:KUBE-FORWARD - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SOURCE-RANGES-FIREWALL - [0:0]
:KUBE-IPVS-FILTER - [0:0]
:KUBE-IPVS-OUT-FILTER - [0:0]
-A KUBE-PROXY-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port for load balancer with sourceRange" -m set --match-set KUBE-LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL
-A KUBE-SOURCE-RANGES-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port + source cidr for packet filter purpose" -m set --match-set KUBE-LOAD-BALANCER-SOURCE-CIDR dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -m comment --comment "Kubernetes service load balancer ip + port + source IP for packet filter purpose" -m set --match-set KUBE-LOAD-BALANCER-SOURCE-IP dst,dst,src -j RETURN
-A KUBE-SOURCE-RANGES-FIREWALL -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x00004000/0x00004000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes health check node port" -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j ACCEPT
-A KUBE-IPVS-FILTER -m set --match-set KUBE-LOAD-BALANCER dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set KUBE-EXTERNAL-IP dst,dst -j RETURN
-A KUBE-IPVS-FILTER -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -j RETURN
-A KUBE-IPVS-FILTER -p tcp -m set --match-set KUBE-HEALTH-CHECK-NODE-PORT dst -j RETURN
-A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set KUBE-IPVS-IPS dst -j REJECT
-I FORWARD 1 -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-I INPUT 1 -m comment --comment "kubernetes health check rules" -j KUBE-NODE-PORT
-I INPUT 1 -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I FORWARD 1 -m comment --comment "kube-proxy firewall rules" -j KUBE-PROXY-FIREWALL
-I INPUT 1 -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
-I OUTPUT 1 -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-OUT-FILTER
COMMIT
)");
}

TEST(Rules, Ipv6UsesItsOwnSetsAndLoopback) {
  IptablesConfig config;
  config.family = net::Family::kIpv6;
  const auto nat = lines_of(rules(config, Table::kNat), "KUBE-SERVICES");
  EXPECT_EQ(nat.front(), "-s ::1/128 -j RETURN");
  for (const Table table : {Table::kNat, Table::kFilter}) {
    for (const Rule& rule : rules(config, table)) {
      const std::size_t at = rule.spec.find("--match-set ");
      if (at != std::string::npos) {
        EXPECT_EQ(rule.spec.substr(at + 12, 7), "KUBE-6-") << rule.spec;
      }
    }
  }
  // Both names are cut to what the kernel takes.
  EXPECT_THAT(lines_of(rules(config, Table::kNat), "KUBE-NODE-PORT"),
              Contains(HasSubstr(" KUBE-6-NODE-PORT-LOCAL-SCTP-HAS dst,dst")));
  EXPECT_THAT(lines_of(rules(config, Table::kFilter), "KUBE-SOURCE-RANGES-FIREWALL"),
              Contains(HasSubstr(" KUBE-6-LOAD-BALANCER-SOURCE-CID dst,dst,src")));
}

struct ClusterIpCase {
  std::string name;
  bool masquerade_all;
  LocalTraffic local_traffic;
  std::string want;
};

TEST(Rules, ClusterIpMasquerade) {
  // The first two are cases 129 and 130 of kube-proxy-ipvs.md.
  const std::vector<ClusterIpCase> cases = {
      {"masquerade all", true, prefix("10.244.0.0/16"), "dst,dst -j"},
      {"unknown", false, {}, "src,dst -j"},
      {"CIDR", false, prefix("10.244.0.0/16"), "dst,dst ! -s 10.244.0.0/16 -j"},
      {"bridge", false, BridgeInterface{"cni0"}, "dst,dst ! -i cni0 -j"},
      {"interfaces", false, InterfacePrefix{"veth"}, "dst,dst ! -i veth+ -j"},
  };
  for (const ClusterIpCase& c : cases) {
    IptablesConfig config;
    config.masquerade_all = c.masquerade_all;
    config.local_traffic = c.local_traffic;
    EXPECT_THAT(
        lines_of(rules(config, Table::kNat)),
        Contains("KUBE-SERVICES -m comment --comment \"Kubernetes service cluster ip + port "
                 "for masquerade purpose\" -m set --match-set KUBE-CLUSTER-IP " +
                 c.want + " KUBE-MARK-MASQ"))
        << c.name;
  }
}

TEST(Rules, Options) {
  IptablesConfig config;
  config.random_fully = false;
  config.physdev = false;
  config.masquerade_bit = 31;
  const auto all = lines_of(rules(config, Table::kNat));
  EXPECT_THAT(all, Not(Contains(HasSubstr("random-fully"))));
  EXPECT_THAT(all, Not(Contains(HasSubstr("physdev"))));
  EXPECT_THAT(all, Contains("KUBE-MARK-MASQ -j MARK --or-mark 0x80000000"));
  config.masquerade_bit = 0;
  EXPECT_THAT(lines_of(rules(config, Table::kNat)),
              Contains("KUBE-MARK-MASQ -j MARK --or-mark 0x00000001"));
}

TEST(Rules, EachChainHasItsRules) {
  // A chain without rules would be a name forgotten somewhere. Only the one whose rules come per
  // load-balancer IP is empty.
  for (const Table table : {Table::kNat, Table::kFilter}) {
    const std::vector<Rule> all = rules({}, table);
    for (const std::string_view chain : chains(table)) {
      EXPECT_EQ(lines_of(all, chain).empty(), chain == "KUBE-IPVS-OUT-FILTER") << chain;
    }
    for (const Rule& rule : all) {
      EXPECT_TRUE(is_ours(rule.chain, table)) << rule.chain;
    }
  }
}

// --- Canonical form ------------------------------------------------------------------------------

struct Pair {
  std::string written;
  std::string shown;
  bool want_equal = true;
};

TEST(Canonical, KnowsOtherWordings) {
  const std::vector<Pair> pairs = {
      {"-j MARK --or-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x4000"},
      {"-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x0"},
      {"-j MARK --xor-mark 0x00004000", "-j MARK --set-xmark 0x4000/0x4000", false},
      {"-j MARK --set-mark 0x1/0xff", "-j MARK --set-xmark 0x1/0xff"},
      {"-j MARK --set-mark 0x1", "-j MARK --set-xmark 0x1/0xffffffff"},
      {"-j MARK --and-mark 0x1", "-j MARK --set-xmark 0x0/0xfffffffe"},
      {"-m mark ! --mark 0x00004000/0x00004000 -j RETURN",
       "-m mark ! --mark 0x4000/0x4000 -j RETURN"},
      {"-m mark --mark 0x00004000/0x00004000 -j RETURN", "-m mark ! --mark 0x4000/0x4000 -j RETURN",
       false},
      {"-m mark --mark 16384 -j RETURN", "-m mark --mark 0x4000/0xffffffff -j RETURN"},
      {"-s 10.0.0.1 -j RETURN", "-s 10.0.0.1/32 -j RETURN"},
      {"-s 10.0.0.1 -j RETURN", "-s 10.0.0.2/32 -j RETURN", false},
      {"-s ::0:1/128 -j RETURN", "-s ::1/128 -j RETURN"},
      {"-p tcp -j RETURN", "-p 6 -j RETURN"},
      {"-p sctp -j RETURN", "-p 132 -j RETURN"},
      {"-p udp -j RETURN", "-p tcp -j RETURN", false},
      {"-m comment --comment word -j RETURN", "-m comment --comment \"word\" -j RETURN"},
      {R"(-m comment --comment "it's \"so\"" -j RETURN)",
       R"(-m comment --comment "it\'s \"so\"" -j RETURN)"},
      {"-m comment --comment \"a b\" -j RETURN", "-m comment --comment \"a c\" -j RETURN", false},
      {"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
       "-m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT"},
      {"-j REJECT", "-j REJECT --reject-with icmp-port-unreachable"},
      {"-j REJECT", "-j REJECT --reject-with icmp6-port-unreachable"},
      {"-j REJECT", "-j REJECT --reject-with tcp-reset", false},
      {"-m set --match-set X dst,dst ! -s 10.0.0.0/8 -j Y",
       "! -s 10.0.0.0/8 -m set --match-set X dst,dst -j Y"},
      {"-m set --match-set X dst,dst -j Y", "-m set --match-set X src,dst -j Y", false},
      {"-m set --match-set X dst,dst -j Y", "-m set ! --match-set X dst,dst -j Y", false},
      {"-j A", "-g A", false},
      {"-j A", "-j B", false},
      {"-j MASQUERADE", "-j MASQUERADE --random-fully", false},
      // A comment cannot pass for an option.
      {"-m comment --comment \"-j DROP\" -j A", "-m comment --comment -j DROP -j A", false},
  };
  for (const Pair& pair : pairs) {
    EXPECT_EQ(canonical(pair.written) == canonical(pair.shown), pair.want_equal)
        << pair.written << "\n"
        << pair.shown;
  }
}

// --- Reading back --------------------------------------------------------------------------------

// As iptables-save of both variants shows our rules (they agree), among others' rules.
constexpr std::string_view kSavedNat = R"(# Generated by iptables-save v1.8.9 (nf_tables)
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT - [0:0]
:KUBE-LOAD-BALANCER - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODE-PORT - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-LOAD-BALANCER -m comment --comment "Kubernetes service load balancer ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-LOAD-BALANCER-LOCAL dst,dst -j RETURN
-A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-TCP dst -j RETURN
-A KUBE-NODE-PORT -p tcp -m comment --comment "Kubernetes nodeport TCP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-TCP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port with externalTrafficPolicy=local" -m set --match-set KUBE-NODE-PORT-LOCAL-UDP dst -j RETURN
-A KUBE-NODE-PORT -p udp -m comment --comment "Kubernetes nodeport UDP port for masquerade purpose" -m set --match-set KUBE-NODE-PORT-UDP dst -j KUBE-MARK-MASQ
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type \'hash ip:port\'" -m set --match-set KUBE-NODE-PORT-LOCAL-SCTP-HASH dst,dst -j RETURN
-A KUBE-NODE-PORT -p sctp -m comment --comment "Kubernetes nodeport SCTP port for masquerade purpose with type \'hash ip:port\'" -m set --match-set KUBE-NODE-PORT-SCTP-HASH dst,dst -j KUBE-MARK-MASQ
-A KUBE-POSTROUTING -m comment --comment "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose" -m set --match-set KUBE-LOOP-BACK dst,dst,src -j MASQUERADE
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -s 127.0.0.0/8 -j RETURN
-A KUBE-SERVICES -m comment --comment "Kubernetes service lb portal" -m set --match-set KUBE-LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER
-A KUBE-SERVICES ! -s 10.244.0.0/16 -m comment --comment "Kubernetes service cluster ip + port for masquerade purpose" -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -j KUBE-MARK-MASQ
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port for masquerade and filter purpose" -m set --match-set KUBE-EXTERNAL-IP dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m comment --comment "Kubernetes service external ip + port with externalTrafficPolicy=local" -m set --match-set KUBE-EXTERNAL-IP-LOCAL dst,dst -m addrtype --dst-type LOCAL -j ACCEPT
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT
-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT
-A KUBE-SERVICES -m set --match-set KUBE-LOAD-BALANCER dst,dst -j ACCEPT
COMMIT
# Completed
)";

IptablesConfig saved_config() {
  IptablesConfig config;
  config.local_traffic = prefix("10.244.0.0/16");
  return config;
}

SavedTable saved_nat() { return parse_saved(kSavedNat, Table::kNat).value(); }

TEST(Saved, ParsesOnlyItsTable) {
  EXPECT_EQ(saved_nat().chains.size(), 10U);
  EXPECT_EQ(saved_nat().rules.front().spec,
            "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES");
  const auto filter = parse_saved(kSavedNat, Table::kFilter);
  ASSERT_TRUE(filter);
  EXPECT_THAT(filter->chains, IsEmpty());
  EXPECT_THAT(filter->rules, IsEmpty());
}

TEST(Saved, SkipsCounters) {
  const auto saved =
      parse_saved("*nat\n:A - [1:60]\n[12:3456] -A A -s 10.0.0.1/32 -j RETURN\n", Table::kNat);
  ASSERT_TRUE(saved);
  EXPECT_THAT(saved->rules, ElementsAre(Rule{"A", "-s 10.0.0.1/32 -j RETURN"}));
}

TEST(Saved, UnreadableTableIsAnError) {
  const auto saved = parse_saved("# Table `nat' is incompatible, use 'nft' tool.\n", Table::kNat);
  ASSERT_FALSE(saved);
  EXPECT_EQ(saved.error().kind(), ErrorKind::kUnavailable);
  EXPECT_TRUE(parse_saved("# Table `nat' is incompatible, use 'nft' tool.\n", Table::kFilter));
}

TEST(Saved, GarbageDoesNoHarm) {
  for (const std::string_view text : {"", "*", "*nat", "*nat\n-A", "*nat\n-A X", "*nat\n[",
                                      "*nat\n:", "*nat\n-A X \"", "*nat\n\\", "*nat\n-A X \"\\"}) {
    const auto saved = parse_saved(text, Table::kNat);
    ASSERT_TRUE(saved);
    EXPECT_FALSE(rules_in_force({}, Table::kNat, *saved));
    EXPECT_EQ(cleanup_input(Table::kNat, *saved), "");
  }
}

TEST(InForce, AsShownByThePrograms) {
  EXPECT_TRUE(rules_in_force(saved_config(), Table::kNat, saved_nat()));
  EXPECT_THAT(missing_jumps(Table::kNat, saved_nat()), IsEmpty());
}

TEST(InForce, ForAllConfigurations) {
  // What we write is what we look for.
  for (const net::Family family : {net::Family::kIpv4, net::Family::kIpv6}) {
    for (const Table table : {Table::kNat, Table::kFilter}) {
      IptablesConfig config;
      config.family = family;
      config.local_traffic = BridgeInterface{"cni0"};
      const SavedTable saved = after_restore({}, restore_input(config, table, true, jumps(table)));
      EXPECT_TRUE(rules_in_force(config, table, saved));
      EXPECT_THAT(missing_jumps(table, saved), IsEmpty());
      config.masquerade_bit = 15;
      EXPECT_FALSE(rules_in_force(config, table, saved));
    }
  }
}

TEST(InForce, AnyDamageIsSeen) {
  const SavedTable whole = saved_nat();
  for (std::size_t i = 0; i < whole.rules.size(); ++i) {
    SavedTable damaged = whole;
    damaged.rules.erase(damaged.rules.begin() + static_cast<std::ptrdiff_t>(i));
    const bool is_foreign = whole.rules[i].spec.ends_with("CNI-HOSTPORT");
    const bool is_jump = !is_ours(whole.rules[i].chain, Table::kNat) && !is_foreign;
    EXPECT_EQ(rules_in_force(saved_config(), Table::kNat, damaged), is_jump || is_foreign)
        << whole.rules[i].spec;
    EXPECT_EQ(missing_jumps(Table::kNat, damaged).size(), is_jump ? 1U : 0U);
  }
  SavedTable more = whole;
  more.rules.push_back({"KUBE-MARK-MASQ", "-j RETURN"});
  EXPECT_FALSE(rules_in_force(saved_config(), Table::kNat, more));
  SavedTable swapped = whole;
  const auto first = std::ranges::find(swapped.rules, "KUBE-SERVICES", &Rule::chain);
  std::iter_swap(first, first + 1);
  EXPECT_FALSE(rules_in_force(saved_config(), Table::kNat, swapped)) << "order counts";
  SavedTable chainless = whole;
  std::erase(chainless.chains, "KUBE-MARK-MASQ");
  EXPECT_FALSE(rules_in_force(saved_config(), Table::kNat, chainless));
}

TEST(Restore, OnlyWhatIsMissing) {
  EXPECT_EQ(restore_input({}, Table::kNat, false, {}), "");
  SavedTable saved = saved_nat();
  std::erase_if(saved.rules, [](const Rule& rule) { return rule.chain == "OUTPUT"; });
  EXPECT_EQ(restore_input(saved_config(), Table::kNat, false, missing_jumps(Table::kNat, saved)),
            "*nat\n-I OUTPUT 1 -m comment --comment \"kubernetes service portals\" -j "
            "KUBE-SERVICES\nCOMMIT\n");
}

TEST(Restore, FreshJumpsReadAsKubeProxysDo) {
  const SavedTable saved =
      after_restore({}, restore_input({}, Table::kFilter, true, jumps(Table::kFilter)));
  const auto targets = [&](std::string_view chain) {
    std::vector<std::string> out;
    for (const std::string& spec : lines_of(saved.rules, chain)) {
      out.push_back(spec.substr(spec.rfind(' ') + 1));
    }
    return out;
  };
  EXPECT_THAT(targets("INPUT"),
              ElementsAre("KUBE-IPVS-FILTER", "KUBE-PROXY-FIREWALL", "KUBE-NODE-PORT"));
  EXPECT_THAT(targets("FORWARD"), ElementsAre("KUBE-PROXY-FIREWALL", "KUBE-FORWARD"));
}

TEST(Cleanup, RemovesAllOfOursAndNothingElse) {
  SavedTable saved = saved_nat();
  // A jump that was inserted twice goes twice.
  saved.rules.insert(saved.rules.begin(), jumps(Table::kNat).front());
  const SavedTable after = after_restore(saved, cleanup_input(Table::kNat, saved));
  EXPECT_THAT(after.chains,
              ElementsAre("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "CNI-HOSTPORT"));
  EXPECT_THAT(after.rules,
              ElementsAre(Rule{"PREROUTING", "-m addrtype --dst-type LOCAL -j CNI-HOSTPORT"}));
  EXPECT_EQ(cleanup_input(Table::kNat, after), "");
}

TEST(Cleanup, ChainThatOthersUseIsOnlyEmptied) {
  SavedTable saved = saved_nat();
  saved.rules.push_back({"CNI-HOSTPORT", "-p tcp -j KUBE-MARK-MASQ"});
  const SavedTable after = after_restore(saved, cleanup_input(Table::kNat, saved));
  EXPECT_THAT(after.chains, Contains("KUBE-MARK-MASQ"));
  EXPECT_THAT(after.chains, Not(Contains("KUBE-SERVICES")));
  EXPECT_THAT(lines_of(after.rules, "KUBE-MARK-MASQ"), IsEmpty());
}

TEST(Version, Parses) {
  EXPECT_EQ(parse_version("iptables v1.8.9 (nf_tables)\n").value(), (IptablesVersion{1, 8, 9}));
  EXPECT_EQ(parse_version("ip6tables v1.6.1\n").value(), (IptablesVersion{1, 6, 1}));
  EXPECT_EQ(parse_version("iptables v1.10\n").value(), (IptablesVersion{1, 10, 0}));
  for (const char* text : {"", "iptables", "iptables v", "iptables vx.y", "iptables v1"}) {
    EXPECT_FALSE(parse_version(text)) << text;
  }
  EXPECT_LT((IptablesVersion{1, 6, 1}), (IptablesVersion{1, 6, 2}));
  EXPECT_LT((IptablesVersion{1, 6, 2}), (IptablesVersion{1, 10, 0}));
}

}  // namespace
}  // namespace fairlead::dataplane::ipvs
