// SPDX-License-Identifier: Apache-2.0
#include "dataplane/ipvs/iptables.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>

#include "base/text.h"
#include "dataplane/ipvs/sets.h"

namespace fairlead::dataplane::ipvs {
namespace {

constexpr std::string_view kServices = "KUBE-SERVICES";
constexpr std::string_view kPostrouting = "KUBE-POSTROUTING";
constexpr std::string_view kNodePort = "KUBE-NODE-PORT";
constexpr std::string_view kLoadBalancer = "KUBE-LOAD-BALANCER";
constexpr std::string_view kMarkMasq = "KUBE-MARK-MASQ";
constexpr std::string_view kForward = "KUBE-FORWARD";
constexpr std::string_view kProxyFirewall = "KUBE-PROXY-FIREWALL";
constexpr std::string_view kSourceRanges = "KUBE-SOURCE-RANGES-FIREWALL";
constexpr std::string_view kIpvsFilter = "KUBE-IPVS-FILTER";
constexpr std::string_view kIpvsOutFilter = "KUBE-IPVS-OUT-FILTER";

// The comment of the rules that refer to a set, as kube-proxy words it.
std::string_view set_comment(SetId set) {
  switch (set) {
    case SetId::kLoopBack:
      return "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose";
    case SetId::kClusterIp:
      return "Kubernetes service cluster ip + port for masquerade purpose";
    case SetId::kExternalIp:
      return "Kubernetes service external ip + port for masquerade and filter purpose";
    case SetId::kExternalIpLocal:
      return "Kubernetes service external ip + port with externalTrafficPolicy=local";
    case SetId::kLoadBalancer:
      return "Kubernetes service lb portal";
    case SetId::kLoadBalancerFw:
      return "Kubernetes service load balancer ip + port for load balancer with sourceRange";
    case SetId::kLoadBalancerLocal:
      return "Kubernetes service load balancer ip + port with externalTrafficPolicy=local";
    case SetId::kLoadBalancerSourceIp:
      return "Kubernetes service load balancer ip + port + source IP for packet filter purpose";
    case SetId::kLoadBalancerSourceCidr:
      return "Kubernetes service load balancer ip + port + source cidr for packet filter purpose";
    case SetId::kNodePortTcp:
      return "Kubernetes nodeport TCP port for masquerade purpose";
    case SetId::kNodePortLocalTcp:
      return "Kubernetes nodeport TCP port with externalTrafficPolicy=local";
    case SetId::kNodePortUdp:
      return "Kubernetes nodeport UDP port for masquerade purpose";
    case SetId::kNodePortLocalUdp:
      return "Kubernetes nodeport UDP port with externalTrafficPolicy=local";
    case SetId::kNodePortSctp:
      return "Kubernetes nodeport SCTP port for masquerade purpose with type 'hash ip:port'";
    case SetId::kNodePortLocalSctp:
      return "Kubernetes nodeport SCTP port with externalTrafficPolicy=local with type "
             "'hash ip:port'";
    case SetId::kHealthCheckNodePort:
      return "Kubernetes health check node port";
    case SetId::kIpvsIps:
      return "Addresses on the ipvs interface";
    case SetId::kOwnedNodePorts:
      break;
  }
  return "";
}

std::string hex(std::uint32_t value, std::size_t digits = 1) {
  std::array<char, 8> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value, 16).ptr;
  const std::string text(buffer.data(), end);
  return "0x" + std::string(digits > text.size() ? digits - text.size() : 0, '0') + text;
}

std::string comment(std::string_view text) {
  return "-m comment --comment \"" + std::string(text) + "\"";
}

/// Collects rules; knows the family's set names.
class RuleWriter {
 public:
  explicit RuleWriter(const IptablesConfig& config)
      : family_(config.family), mark_(hex(std::uint32_t{1} << config.masquerade_bit, 8)) {}

  void add(std::string_view chain, std::string spec) {
    rules_.push_back({.chain = std::string(chain), .spec = std::move(spec)});
  }
  /// `-m set --match-set NAME directions`.
  [[nodiscard]] std::string match(SetId set, std::string_view directions) const {
    return "-m set --match-set " + set_name(set, family_) + " " + std::string(directions);
  }
  /// The same behind the set's comment.
  [[nodiscard]] std::string commented(SetId set, std::string_view directions) const {
    return comment(set_comment(set)) + " " + match(set, directions);
  }
  [[nodiscard]] const std::string& mark() const { return mark_; }
  [[nodiscard]] std::vector<Rule> take() { return std::move(rules_); }

 private:
  net::Family family_;
  std::string mark_;
  std::vector<Rule> rules_;
};

std::string jump(std::string_view target) { return " -j " + std::string(target); }

std::string not_local_match(const LocalTraffic& local) {
  if (const auto* prefix = std::get_if<net::IpPrefix>(&local)) {
    return " ! -s " + prefix->text();
  }
  if (const auto* bridge = std::get_if<BridgeInterface>(&local)) {
    return " ! -i " + bridge->name;
  }
  if (const auto* interfaces = std::get_if<InterfacePrefix>(&local)) {
    return " ! -i " + interfaces->prefix + "+";
  }
  return "";
}

std::string cluster_ip_match(const IptablesConfig& config, const RuleWriter& writer) {
  if (config.masquerade_all) {
    return writer.commented(SetId::kClusterIp, "dst,dst");
  }
  if (std::holds_alternative<std::monostate>(config.local_traffic)) {
    // A node process that picked the service address on kube-ipvs0 as its source.
    return writer.commented(SetId::kClusterIp, "src,dst");
  }
  return writer.commented(SetId::kClusterIp, "dst,dst") + not_local_match(config.local_traffic);
}

void add_node_port_rules(RuleWriter& writer) {
  struct NodePortSets {
    std::string_view protocol;
    SetId local;
    SetId all;
    std::string_view directions;
  };
  constexpr std::array<NodePortSets, 3> kNodePortSets = {{
      {"tcp", SetId::kNodePortLocalTcp, SetId::kNodePortTcp, "dst"},
      {"udp", SetId::kNodePortLocalUdp, SetId::kNodePortUdp, "dst"},
      {"sctp", SetId::kNodePortLocalSctp, SetId::kNodePortSctp, "dst,dst"},
  }};
  for (const NodePortSets& sets : kNodePortSets) {
    const std::string protocol = "-p " + std::string(sets.protocol) + " ";
    writer.add(kNodePort,
               protocol + writer.commented(sets.local, sets.directions) + jump("RETURN"));
    writer.add(kNodePort, protocol + writer.commented(sets.all, sets.directions) + jump(kMarkMasq));
  }
}

void add_external_ip_accepts(RuleWriter& writer, SetId set, bool physdev) {
  const std::string match = writer.commented(set, "dst,dst");
  if (physdev) {
    writer.add(kServices, match + " -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL" +
                              jump("ACCEPT"));
  }
  writer.add(kServices, match + " -m addrtype --dst-type LOCAL" + jump("ACCEPT"));
}

std::vector<Rule> nat_rules(const IptablesConfig& config) {
  RuleWriter w(config);
  const std::string loopback = config.family == net::Family::kIpv4 ? "127.0.0.0/8" : "::1/128";
  w.add(kServices, "-s " + loopback + jump("RETURN"));
  // Before the test of the mark below: hairpin traffic needs no mark.
  w.add(kPostrouting, w.commented(SetId::kLoopBack, "dst,dst,src") + jump("MASQUERADE"));
  w.add(kServices, w.commented(SetId::kLoadBalancer, "dst,dst") + jump(kLoadBalancer));
  w.add(kLoadBalancer, w.commented(SetId::kLoadBalancerLocal, "dst,dst") + jump("RETURN"));
  add_node_port_rules(w);
  w.add(kServices, cluster_ip_match(config, w) + jump(kMarkMasq));
  w.add(kServices, w.commented(SetId::kExternalIp, "dst,dst") + jump(kMarkMasq));
  add_external_ip_accepts(w, SetId::kExternalIp, config.physdev);
  add_external_ip_accepts(w, SetId::kExternalIpLocal, config.physdev);
  w.add(kServices, "-m addrtype --dst-type LOCAL" + jump(kNodePort));
  w.add(kLoadBalancer, "-j " + std::string(kMarkMasq));
  w.add(kServices, w.match(SetId::kClusterIp, "dst,dst") + jump("ACCEPT"));
  w.add(kServices, w.match(SetId::kLoadBalancer, "dst,dst") + jump("ACCEPT"));
  w.add(kPostrouting, "-m mark ! --mark " + w.mark() + "/" + w.mark() + jump("RETURN"));
  // The packet passes here again when it is sent on by a tunnel device: no second masquerade.
  w.add(kPostrouting, "-j MARK --xor-mark " + w.mark());
  w.add(kPostrouting, comment("kubernetes service traffic requiring SNAT") + jump("MASQUERADE") +
                          (config.random_fully ? " --random-fully" : ""));
  w.add(kMarkMasq, "-j MARK --or-mark " + w.mark());
  return w.take();
}

std::vector<Rule> filter_rules(const IptablesConfig& config) {
  RuleWriter w(config);
  w.add(kProxyFirewall, w.commented(SetId::kLoadBalancerFw, "dst,dst") + jump(kSourceRanges));
  w.add(kSourceRanges, w.commented(SetId::kLoadBalancerSourceCidr, "dst,dst,src") + jump("RETURN"));
  w.add(kSourceRanges, w.commented(SetId::kLoadBalancerSourceIp, "dst,dst,src") + jump("RETURN"));
  w.add(kSourceRanges, "-j DROP");
  w.add(kForward, comment("kubernetes forwarding rules") + " -m mark --mark " + w.mark() + "/" +
                      w.mark() + jump("ACCEPT"));
  w.add(kForward, comment("kubernetes forwarding conntrack rule") +
                      " -m conntrack --ctstate RELATED,ESTABLISHED" + jump("ACCEPT"));
  // kube-proxy leaves `-p tcp` out here and below, and so opens the same port for UDP.
  w.add(kNodePort, "-p tcp " + w.commented(SetId::kHealthCheckNodePort, "dst") + jump("ACCEPT"));
  for (const SetId set :
       {SetId::kLoadBalancer, SetId::kClusterIp, SetId::kExternalIp, SetId::kExternalIpLocal}) {
    w.add(kIpvsFilter, w.match(set, "dst,dst") + jump("RETURN"));
  }
  w.add(kIpvsFilter, "-p tcp " + w.match(SetId::kHealthCheckNodePort, "dst") + jump("RETURN"));
  w.add(kIpvsFilter,
        "-m conntrack --ctstate NEW " + w.match(SetId::kIpvsIps, "dst") + jump("REJECT"));
  return w.take();
}

// --- Reading rules back --------------------------------------------------------------------------

struct Token {
  std::string text;
  bool quoted = false;  // so it is a value, whatever it begins with
};

// Words as iptables-save writes them: quotes round values with blanks, and a backslash before a
// quote or backslash inside of them.
std::vector<Token> tokens(std::string_view line) {
  std::vector<Token> out;
  std::size_t i = 0;
  while (i < line.size()) {
    if (line[i] == ' ' || line[i] == '\t') {
      ++i;
      continue;
    }
    Token token;
    bool inside = false;
    for (; i < line.size() && (inside || (line[i] != ' ' && line[i] != '\t')); ++i) {
      if (line[i] == '"') {
        inside = !inside;
        token.quoted = true;
      } else if (line[i] == '\\' && inside && i + 1 < line.size()) {
        token.text += line[++i];
      } else {
        token.text += line[i];
      }
    }
    out.push_back(std::move(token));
  }
  return out;
}

std::optional<std::uint32_t> parse_mark(std::string_view text) {
  const bool is_hex = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = is_hex ? text.substr(2) : text;
  std::uint32_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, is_hex ? 16 : 10);
  if (error != std::errc{} || end != digits.data() + digits.size()) {
    return std::nullopt;
  }
  return value;
}

struct MaskedMark {
  std::uint32_t value = 0;
  std::uint32_t mask = 0xffffffffU;
};

std::optional<MaskedMark> parse_masked_mark(std::string_view text) {
  const std::size_t slash = text.find('/');
  const auto value = parse_mark(text.substr(0, slash));
  const auto mask = slash == std::string_view::npos ? std::optional<std::uint32_t>(0xffffffffU)
                                                    : parse_mark(text.substr(slash + 1));
  if (!value || !mask) {
    return std::nullopt;
  }
  return MaskedMark{.value = *value, .mask = *mask};
}

/// One option with what belongs to it.
struct Option {
  bool negated = false;
  std::string name;
  std::vector<std::string> values;
};

// All ways to change a mark are one operation: clear the mask's bits, then exclusive-or the value.
void normalise_mark_target(Option& option) {
  const auto mark = option.values.size() == 1 ? parse_masked_mark(option.values[0]) : std::nullopt;
  if (!mark) {
    return;
  }
  MaskedMark xmark = *mark;
  if (option.name == "--or-mark") {
    xmark.mask = xmark.value;
  } else if (option.name == "--xor-mark") {
    xmark.mask = 0;
  } else if (option.name == "--and-mark") {
    xmark = {.value = 0, .mask = ~xmark.value};
  } else if (option.name == "--set-mark") {
    xmark.mask |= xmark.value;
  }
  option.name = "--set-xmark";
  option.values[0] = hex(xmark.value) + "/" + hex(xmark.mask);
}

std::string protocol_name(const std::string& text) {
  for (const net::Protocol protocol :
       {net::Protocol::kTcp, net::Protocol::kUdp, net::Protocol::kSctp}) {
    if (text == std::to_string(static_cast<int>(protocol))) {
      return std::string(net::lower_text(protocol));
    }
  }
  return lower(text);
}

std::string prefix_text(const std::string& text) {
  if (const auto prefix = net::IpPrefix::parse(text)) {
    return prefix->text();
  }
  if (const auto address = net::IpAddress::parse(text)) {
    return net::IpPrefix::host(*address).text();
  }
  return text;
}

/// False if the option says nothing, since it is the default.
bool normalise(Option& option) {
  if (option.values.size() != 1) {
    return true;
  }
  std::string& value = option.values[0];
  if (option.name == "-s" || option.name == "-d") {
    value = prefix_text(value);
  } else if (option.name == "-p") {
    value = protocol_name(value);
  } else if (option.name == "--mark") {
    if (const auto mark = parse_masked_mark(value)) {
      value = hex(mark->value) + "/" + hex(mark->mask);
    }
  } else if (option.name.ends_with("-mark") || option.name == "--set-xmark") {
    normalise_mark_target(option);
  } else if (option.name == "--ctstate") {
    std::vector<std::string> states;
    for (const std::string_view state : split(value, ',')) {
      states.emplace_back(state);
    }
    std::ranges::sort(states);
    value = join(states, ",");
  } else if (option.name == "--reject-with") {
    return value != "icmp-port-unreachable" && value != "icmp6-port-unreachable";
  }
  return true;
}

std::vector<Option> options(const std::vector<Token>& words) {
  std::vector<Option> out;
  bool negated = false;
  for (const Token& word : words) {
    if (!word.quoted && word.text == "!") {
      negated = true;
    } else if (!word.quoted && word.text.size() > 1 && word.text.front() == '-') {
      out.push_back({.negated = std::exchange(negated, false), .name = word.text, .values = {}});
    } else if (!out.empty()) {
      out.back().values.push_back(word.text);
    } else {
      out.push_back({.negated = false, .name = "", .values = {word.text}});
    }
  }
  return out;
}

/// The chain a rule jumps (or goes) to, or its target.
std::string target_of(std::string_view spec) {
  for (const Option& option : options(tokens(spec))) {
    if ((option.name == "-j" || option.name == "-g") && !option.values.empty()) {
      return option.values[0];
    }
  }
  return "";
}

// `[12:3456]`, the counters of iptables-save -c.
bool is_counters(std::string_view word) { return word.starts_with('[') && word.ends_with(']'); }

std::string_view first_word(std::string_view& line) {
  const std::size_t blank = line.find(' ');
  const std::string_view word = line.substr(0, blank);
  line = blank == std::string_view::npos ? std::string_view() : trim(line.substr(blank));
  return word;
}

void read_line(std::string_view line, SavedTable& saved) {
  if (line.starts_with(':')) {
    saved.chains.emplace_back(first_word(line).substr(1));
    return;
  }
  if (is_counters(line.substr(0, line.find(' ')))) {
    first_word(line);
  }
  if (first_word(line) != "-A") {
    return;
  }
  const std::string chain(first_word(line));
  saved.rules.push_back({.chain = chain, .spec = std::string(line)});
}

std::string table_input(Table table, const std::string& body) {
  return body.empty() ? "" : "*" + std::string(text(table)) + "\n" + body + "COMMIT\n";
}

std::string rule_line(std::string_view command, const Rule& rule, std::string_view position = "") {
  return std::string(command) + " " + rule.chain + std::string(position) + " " + rule.spec + "\n";
}

std::string declaration(std::string_view chain) { return ":" + std::string(chain) + " - [0:0]\n"; }

}  // namespace

std::string_view text(Table table) { return table == Table::kNat ? "nat" : "filter"; }

std::span<const std::string_view> chains(Table table) {
  static constexpr std::array kNatChains = {kServices, kPostrouting, kNodePort, kLoadBalancer,
                                            kMarkMasq};
  static constexpr std::array kFilterChains = {kForward,      kNodePort,   kProxyFirewall,
                                               kSourceRanges, kIpvsFilter, kIpvsOutFilter};
  return table == Table::kNat ? std::span<const std::string_view>(kNatChains)
                              : std::span<const std::string_view>(kFilterChains);
}

bool is_ours(std::string_view chain, Table table) {
  const auto all = chains(table);
  return std::ranges::find(all, chain) != all.end();
}

std::vector<Rule> jumps(Table table) {
  const auto rule = [](std::string_view from, std::string_view to, std::string_view why) {
    return Rule{.chain = std::string(from), .spec = comment(why) + jump(to)};
  };
  if (table == Table::kNat) {
    return {rule("OUTPUT", kServices, "kubernetes service portals"),
            rule("PREROUTING", kServices, "kubernetes service portals"),
            rule("POSTROUTING", kPostrouting, "kubernetes postrouting rules")};
  }
  return {rule("FORWARD", kForward, "kubernetes forwarding rules"),
          rule("INPUT", kNodePort, "kubernetes health check rules"),
          rule("INPUT", kProxyFirewall, "kube-proxy firewall rules"),
          rule("FORWARD", kProxyFirewall, "kube-proxy firewall rules"),
          rule("INPUT", kIpvsFilter, "kubernetes ipvs access filter"),
          rule("OUTPUT", kIpvsOutFilter, "kubernetes ipvs access filter")};
}

std::vector<Rule> rules(const IptablesConfig& config, Table table) {
  return table == Table::kNat ? nat_rules(config) : filter_rules(config);
}

std::string canonical(std::string_view spec) {
  std::vector<std::string> parts;
  for (Option& option : options(tokens(spec))) {
    if (normalise(option)) {
      parts.push_back((option.negated ? "! " : "") + option.name + " " + join(option.values, " "));
    }
  }
  // All matches of a rule must hold, so their order is of no account.
  std::ranges::sort(parts);
  return join(parts, "\n");
}

Result<SavedTable> parse_saved(std::string_view output, Table table) {
  SavedTable saved;
  bool inside = false;
  for (const std::string_view raw : split(output, '\n')) {
    const std::string_view line = trim(raw);
    if (line.starts_with('#')) {
      if (line.find("is incompatible") != std::string_view::npos &&
          line.find("`" + std::string(text(table)) + "'") != std::string_view::npos) {
        return fail(ErrorKind::kUnavailable, "iptables-save: " + std::string(trim(line.substr(1))));
      }
    } else if (line.starts_with('*')) {
      inside = line.substr(1) == text(table);
    } else if (inside && !line.empty()) {
      read_line(line, saved);
    }
  }
  return saved;
}

bool rules_in_force(const IptablesConfig& config, Table table, const SavedTable& saved) {
  for (const std::string_view chain : chains(table)) {
    if (std::ranges::find(saved.chains, chain) == saved.chains.end()) {
      return false;
    }
  }
  std::map<std::string, std::vector<std::string>> wanted;
  for (const Rule& rule : rules(config, table)) {
    wanted[rule.chain].push_back(canonical(rule.spec));
  }
  std::map<std::string, std::vector<std::string>> found;
  for (const Rule& rule : saved.rules) {
    if (is_ours(rule.chain, table)) {
      found[rule.chain].push_back(canonical(rule.spec));
    }
  }
  return wanted == found;
}

std::vector<Rule> missing_jumps(Table table, const SavedTable& saved) {
  std::vector<Rule> missing;
  for (const Rule& wanted : jumps(table)) {
    const std::string form = canonical(wanted.spec);
    if (std::ranges::none_of(saved.rules, [&](const Rule& rule) {
          return rule.chain == wanted.chain && canonical(rule.spec) == form;
        })) {
      missing.push_back(wanted);
    }
  }
  return missing;
}

std::string restore_input(const IptablesConfig& config, Table table, bool with_rules,
                          const std::vector<Rule>& missing) {
  std::string body;
  if (with_rules) {
    // Declaring a chain empties it under --noflush: old rules are replaced in the same commit.
    for (const std::string_view chain : chains(table)) {
      body += declaration(chain);
    }
    for (const Rule& rule : rules(config, table)) {
      body += rule_line("-A", rule);
    }
  }
  for (const Rule& rule : missing) {
    body += rule_line("-I", rule, " 1");
  }
  return table_input(table, body);
}

std::string cleanup_input(Table table, const SavedTable& saved) {
  std::vector<std::string> present;
  for (const std::string_view chain : chains(table)) {
    if (std::ranges::find(saved.chains, chain) != saved.chains.end()) {
      present.emplace_back(chain);
    }
  }
  std::string body;
  for (const std::string& chain : present) {
    body += declaration(chain);
  }
  const std::vector<Rule> ours = jumps(table);
  std::vector<std::string> referenced;
  for (const Rule& rule : saved.rules) {
    if (is_ours(rule.chain, table)) {
      continue;
    }
    const auto match = std::ranges::find_if(ours, [&](const Rule& jump_rule) {
      return jump_rule.chain == rule.chain && canonical(jump_rule.spec) == canonical(rule.spec);
    });
    if (match != ours.end()) {
      body += rule_line("-D", *match);
    } else {
      referenced.push_back(target_of(rule.spec));
    }
  }
  for (const std::string& chain : present) {
    if (std::ranges::find(referenced, chain) == referenced.end()) {
      body += "-X " + chain + "\n";
    }
  }
  return table_input(table, body);
}

Result<IptablesVersion> parse_version(std::string_view output) {
  const std::size_t start = output.find(" v");
  if (start != std::string_view::npos) {
    std::string_view rest = output.substr(start + 2);
    rest = rest.substr(0, rest.find_first_not_of("0123456789."));
    const auto parts = split(rest, '.');
    std::array<int, 3> numbers{};
    bool good = parts.size() >= 2;
    for (std::size_t i = 0; i < numbers.size() && i < parts.size(); ++i) {
      const auto number = parse_number(parts[i], 1'000'000);
      good = good && number.has_value();
      numbers.at(i) = static_cast<int>(number.value_or(0));
    }
    if (good) {
      return IptablesVersion{.major = numbers[0], .minor = numbers[1], .patch = numbers[2]};
    }
  }
  return fail(ErrorKind::kInvalidInput, "no version in \"" + std::string(trim(output)) + "\"");
}

}  // namespace fairlead::dataplane::ipvs
