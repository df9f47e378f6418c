// SPDX-License-Identifier: Apache-2.0
#include "netlink/ipset.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/ipset/ip_set_hash.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <map>
#include <sys/socket.h>
#include <utility>

#include "netlink/ipset_detail.h"
#include "netlink/socket.h"

namespace fairlead::netlink {
namespace {

constexpr std::array<SetType, 5> kTypes = {SetType::kHashIp, SetType::kHashIpPort,
                                           SetType::kHashIpPortIp, SetType::kHashIpPortNet,
                                           SetType::kBitmapPort};
constexpr std::uint8_t kNewestProtocol = 7;
constexpr std::uint8_t kOldestProtocol = 6;

// ipset refuses numbers in attributes without this flag.
constexpr std::uint16_t net_order(std::uint16_t attribute) {
  return attribute | NLA_F_NET_BYTEORDER;
}

// The revision is what userland tools go by when they list a set: one that every tool since 2014
// knows, as we use nothing newer. (The kernel's newest would make `ipset list` fail where the
// tool is older than the kernel.)
std::uint8_t preferred_revision(SetType type) {
  switch (type) {
    case SetType::kHashIp:
      return 4;
    case SetType::kHashIpPort:
    case SetType::kHashIpPortIp:
      return 5;
    case SetType::kHashIpPortNet:
      return 7;
    case SetType::kBitmapPort:
      break;
  }
  return 3;
}

std::uint8_t family_number(SetType type, net::Family family) {
  return type == SetType::kBitmapPort ? std::uint8_t{AF_UNSPEC}
                                      : static_cast<std::uint8_t>(net::socket_family(family));
}

Request ipset_request(std::uint8_t command, std::uint8_t protocol, std::uint16_t flags = 0) {
  Request request(static_cast<std::uint16_t>((NFNL_SUBSYS_IPSET << 8U) | command), flags);
  request.put_header(nfgenmsg{.nfgen_family = AF_INET, .version = NFNETLINK_V0, .res_id = 0});
  request.put_u8(IPSET_ATTR_PROTOCOL, protocol);
  return request;
}

bool is_answer(const Message& message, std::uint8_t command) {
  return message.type == ((NFNL_SUBSYS_IPSET << 8U) | command);
}

void put_address(Request& request, std::uint16_t attribute, const net::IpAddress& address) {
  const Request::Nest nest = request.begin(attribute);
  request.put_bytes(net_order(address.is_v4() ? std::uint16_t{IPSET_ATTR_IPADDR_IPV4}
                                              : std::uint16_t{IPSET_ATTR_IPADDR_IPV6}),
                    address.bytes());
  request.end(nest);
}

std::optional<net::IpAddress> read_address(const Attributes& data, std::uint16_t attribute) {
  const Attributes nest = data.nest(attribute);
  for (const std::uint16_t type :
       {std::uint16_t{IPSET_ATTR_IPADDR_IPV4}, std::uint16_t{IPSET_ATTR_IPADDR_IPV6}}) {
    const auto bytes = nest[type].bytes();
    if (bytes.size() == (type == IPSET_ATTR_IPADDR_IPV4 ? 4U : 16U)) {
      return net::IpAddress::from_bytes(bytes);
    }
  }
  return std::nullopt;
}

Request op_request(const SetOp& op, std::uint8_t protocol) {
  // Without NLM_F_EXCL "already a member" and "not a member" are no errors.
  Request request =
      ipset_request(op.kind == SetOp::Kind::kAdd ? IPSET_CMD_ADD : IPSET_CMD_DEL, protocol);
  request.put_string(IPSET_ATTR_SETNAME, op.set);
  const SetMember& member = op.member;
  const Request::Nest data = request.begin(IPSET_ATTR_DATA);
  if (op.type != SetType::kBitmapPort) {
    put_address(request, IPSET_ATTR_IP, member.ip);
  }
  if (op.type != SetType::kHashIp) {
    request.put_be16(net_order(IPSET_ATTR_PORT), Be16(net::number(member.port)));
  }
  if (op.type != SetType::kHashIp && op.type != SetType::kBitmapPort) {
    request.put_u8(IPSET_ATTR_PROTO, static_cast<std::uint8_t>(member.protocol));
  }
  if (op.type == SetType::kHashIpPortIp || op.type == SetType::kHashIpPortNet) {
    put_address(request, IPSET_ATTR_IP2, member.second.address());
  }
  if (op.type == SetType::kHashIpPortNet) {
    request.put_u8(IPSET_ATTR_CIDR2, static_cast<std::uint8_t>(member.second.length()));
  }
  request.end(data);
  return request;
}

std::optional<net::Protocol> known_protocol(std::uint8_t number) {
  for (const net::Protocol protocol :
       {net::Protocol::kTcp, net::Protocol::kUdp, net::Protocol::kSctp}) {
    if (static_cast<std::uint8_t>(protocol) == number) {
      return protocol;
    }
  }
  return std::nullopt;
}

std::optional<net::IpPrefix> make_prefix(const net::IpAddress& address, std::uint8_t length) {
  const auto prefix = net::IpPrefix::parse(address.text() + "/" + std::to_string(length));
  return prefix ? std::optional(*prefix) : std::nullopt;
}

/// nullopt for what no member of ours can look like (another protocol, say).
std::optional<SetMember> read_member(const Attributes& data, SetType type) {
  SetMember member;
  if (type != SetType::kBitmapPort) {
    const auto ip = read_address(data, IPSET_ATTR_IP);
    if (!ip) {
      return std::nullopt;
    }
    member.ip = *ip;
  }
  if (type != SetType::kHashIp) {
    const auto port = data[IPSET_ATTR_PORT].be16();
    if (!port) {
      return std::nullopt;
    }
    member.port = net::Port{port->host()};
  }
  if (type == SetType::kHashIp || type == SetType::kBitmapPort) {
    return member;
  }
  const auto number = data[IPSET_ATTR_PROTO].u8();
  const auto protocol = number ? known_protocol(*number) : std::nullopt;
  if (!protocol) {
    return std::nullopt;
  }
  member.protocol = *protocol;
  if (type == SetType::kHashIpPort) {
    return member;
  }
  const auto second = read_address(data, IPSET_ATTR_IP2);
  if (!second) {
    return std::nullopt;
  }
  const auto length = data[IPSET_ATTR_CIDR2].u8();
  const auto prefix =
      length ? make_prefix(*second, *length) : std::optional(net::IpPrefix::host(*second));
  if (!prefix) {
    return std::nullopt;
  }
  member.second = *prefix;
  return member;
}

std::optional<SetType> parse_type(std::string_view name) {
  const auto found = std::ranges::find_if(kTypes, [&](SetType type) { return text(type) == name; });
  return found != kTypes.end() ? std::optional(*found) : std::nullopt;
}

/// What a listing says about one set.
struct Listing {
  bool found = false;
  std::string type_name;
  SetSpec spec;  // type is only right if `type_name` is one of ours
  std::vector<SetMember> members;
};

void read_header(const Attributes& attributes, Listing& listing) {
  if (const auto name = attributes[IPSET_ATTR_TYPENAME].string()) {
    listing.found = true;
    listing.type_name = *name;
    listing.spec.type = parse_type(*name).value_or(SetType::kHashIp);
  }
  if (!listing.found) {
    return;
  }
  if (listing.spec.type == SetType::kBitmapPort) {
    const Attributes range = attributes.nest(IPSET_ATTR_DATA);
    const std::uint16_t first = range[IPSET_ATTR_PORT].be16().value_or(Be16(0)).host();
    const std::uint16_t last = range[IPSET_ATTR_PORT_TO].be16().value_or(Be16(65535)).host();
    if (attributes[IPSET_ATTR_DATA] && (first != 0 || last != 65535)) {
      // As good as another type: it cannot hold our members.
      listing.type_name += " of range " + std::to_string(first) + "-" + std::to_string(last);
    }
    return;
  }
  if (const auto family = attributes[IPSET_ATTR_FAMILY].u8()) {
    listing.spec.family = *family == AF_INET6 ? net::Family::kIpv6 : net::Family::kIpv4;
  }
  const Attributes data = attributes.nest(IPSET_ATTR_DATA);
  if (const auto size = data[IPSET_ATTR_HASHSIZE].be32()) {
    listing.spec.hash_size = size->host();
  }
  if (const auto most = data[IPSET_ATTR_MAXELEM].be32()) {
    listing.spec.max_elements = most->host();
  }
}

class KernelIpSet final : public IpSet {
 public:
  KernelIpSet(Socket socket, std::uint8_t protocol)
      : socket_(std::move(socket)), protocol_(protocol) {}

  Result<std::optional<SetSpec>> header(const std::string& name) override {
    Result<Listing> listing = list(name, /*with_members=*/false);
    if (!listing) {
      return fail(std::move(listing.error()));
    }
    if (!listing->found) {
      return std::nullopt;
    }
    if (Status status = check_type(name, *listing); !status) {
      return fail(std::move(status.error()));
    }
    return std::move(listing->spec);
  }

  Status create(const SetSpec& spec) override {
    const std::string what = "create set " + spec.name;
    if (Status status = check_spec(spec); !status) {
      return fail(std::move(status.error()).in(what));
    }
    const Result<std::uint8_t> type_revision = revision(spec.type, spec.family);
    if (!type_revision) {
      return fail(type_revision.error().in(what));
    }
    Request request = ipset_request(IPSET_CMD_CREATE, protocol_, NLM_F_CREATE | NLM_F_EXCL);
    request.put_string(IPSET_ATTR_SETNAME, spec.name);
    request.put_string(IPSET_ATTR_TYPENAME, text(spec.type));
    request.put_u8(IPSET_ATTR_REVISION, *type_revision);
    request.put_u8(IPSET_ATTR_FAMILY, family_number(spec.type, spec.family));
    const Request::Nest data = request.begin(IPSET_ATTR_DATA);
    if (spec.type == SetType::kBitmapPort) {
      request.put_be16(net_order(IPSET_ATTR_PORT), Be16(0));
      request.put_be16(net_order(IPSET_ATTR_PORT_TO), Be16(65535));
    } else {
      request.put_be32(net_order(IPSET_ATTR_HASHSIZE), Be32(spec.hash_size));
      request.put_be32(net_order(IPSET_ATTR_MAXELEM), Be32(spec.max_elements));
    }
    request.end(data);
    return execute(request, spec.type, what);
  }

  Status destroy(const std::string& name) override {
    if (name.empty()) {
      // Without a name the kernel destroys every set there is.
      return fail(ErrorKind::kInvalidInput, "destroy set: no name");
    }
    // Newer kernels call a missing set a success without NLM_F_EXCL.
    Request request = ipset_request(IPSET_CMD_DESTROY, protocol_, NLM_F_EXCL);
    request.put_string(IPSET_ATTR_SETNAME, name);
    return execute(request, SetType::kHashIp, "destroy set " + name);
  }

  Status swap(const std::string& a, const std::string& b) override {
    Request request = ipset_request(IPSET_CMD_SWAP, protocol_);
    request.put_string(IPSET_ATTR_SETNAME, a);
    request.put_string(IPSET_ATTR_SETNAME2, b);
    return execute(request, SetType::kHashIp, "swap sets " + a + " and " + b);
  }

  Result<std::vector<SetMember>> members(const std::string& name) override {
    Result<Listing> listing = list(name, /*with_members=*/true);
    if (!listing) {
      return fail(std::move(listing.error()));
    }
    if (!listing->found) {
      return fail_errno(ENOENT, "list set " + name);
    }
    if (Status status = check_type(name, *listing); !status) {
      return fail(std::move(status.error()));
    }
    return std::move(listing->members);
  }

  std::vector<Status> apply(std::span<const SetOp> ops) override {
    std::vector<Status> results(ops.size());
    std::vector<Request> requests;
    std::vector<std::size_t> indices;
    requests.reserve(ops.size());
    indices.reserve(ops.size());
    for (std::size_t i = 0; i < ops.size(); ++i) {
      if (Status status = check_member(ops[i].type, ops[i].member); !status) {
        results[i] = fail(std::move(status.error()).in(op_text(ops[i])));
        continue;
      }
      requests.push_back(op_request(ops[i], protocol_));
      indices.push_back(i);
    }
    const std::vector<Status> answers = socket_.execute(requests);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (!answers[i]) {
        const SetOp& op = ops[indices[i]];
        results[indices[i]] = fail(op_error(op, answers[i].error()));
      }
    }
    return results;
  }

 private:
  Status execute(const Request& request, SetType type, const std::string& what) {
    const Status status = socket_.execute_one(request);
    return status ? Status() : fail(explain(status.error(), type, what));
  }

  static Error explain(const Error& error, SetType type, const std::string& what) {
    return error.errno_value() >= IPSET_ERR_PRIVATE ? ipset_error(error.errno_value(), type, what)
                                                    : error.in(what);
  }

  Error op_error(const SetOp& op, const Error& error) {
    const std::string what = op_text(op);
    if (op.type != SetType::kBitmapPort && error.errno_value() == IPSET_ERR_HASH_FULL) {
      const auto spec = header(op.set);
      if (spec && *spec) {
        return set_full_error(**spec, what);
      }
    }
    if (error.errno_value() == IPSET_ERR_PROTOCOL) {
      return member_misfit(what);
    }
    return explain(error, op.type, what);
  }

  static Status check_type(const std::string& name, const Listing& listing) {
    if (!parse_type(listing.type_name)) {
      return fail(ErrorKind::kInvalidInput,
                  "set " + name + " exists, but has type " + listing.type_name);
    }
    return {};
  }

  Result<Listing> list(const std::string& name, bool with_members) {
    Request request = ipset_request(IPSET_CMD_LIST, protocol_);
    request.put_string(IPSET_ATTR_SETNAME, name);
    if (!with_members) {
      request.put_be32(net_order(IPSET_ATTR_FLAGS), Be32(IPSET_FLAG_LIST_HEADER));
    }
    Listing listing;
    listing.spec.name = name;
    const auto restart = [&] {
      listing = {};
      listing.spec.name = name;
    };
    const Status status = socket_.dump(
        request,
        [&](const Message& message) {
          if (!is_answer(message, IPSET_CMD_LIST)) {
            return;
          }
          const Attributes attributes = message.attributes(sizeof(nfgenmsg));
          read_header(attributes, listing);
          for_each_attribute(
              attributes[IPSET_ATTR_ADT].bytes(), [&](std::uint16_t type, const Attribute& value) {
                if (type != IPSET_ATTR_DATA) {
                  return;
                }
                if (const auto member =
                        read_member(Attributes::parse(value.bytes()), listing.spec.type)) {
                  listing.members.push_back(*member);
                }
              });
        },
        restart);
    if (!status && status.error().errno_value() != ENOENT) {
      return fail(explain(status.error(), SetType::kHashIp, "list set " + name));
    }
    return listing;
  }

  /// The one to create sets of this type with; asks the kernel once per type.
  Result<std::uint8_t> revision(SetType type, net::Family family) {
    const auto known = revisions_.find(type);
    if (known != revisions_.end()) {
      return known->second;
    }
    Request request = ipset_request(IPSET_CMD_TYPE, protocol_);
    request.put_string(IPSET_ATTR_TYPENAME, text(type));
    request.put_u8(IPSET_ATTR_FAMILY, family_number(type, family));
    std::optional<std::uint8_t> newest;
    std::optional<std::uint8_t> oldest;
    const Status status = socket_.get(request, [&](const Message& message) {
      if (is_answer(message, IPSET_CMD_TYPE)) {
        const Attributes attributes = message.attributes(sizeof(nfgenmsg));
        newest = attributes[IPSET_ATTR_REVISION].u8();
        oldest = attributes[IPSET_ATTR_REVISION_MIN].u8();
      }
    });
    const std::string what = "set type " + std::string(text(type));
    if (!status) {
      return fail(explain(status.error(), type, what));
    }
    if (!newest) {
      return fail(ErrorKind::kSystem, what + ": the kernel's answer has no revision");
    }
    const std::uint8_t least = std::min(oldest.value_or(*newest), *newest);
    return revisions_[type] = std::clamp(preferred_revision(type), least, *newest);
  }

  Socket socket_;
  std::uint8_t protocol_;
  std::map<SetType, std::uint8_t> revisions_;
};

Result<std::uint8_t> negotiate(Socket& socket) {
  std::optional<std::uint8_t> newest;
  std::optional<std::uint8_t> oldest;
  const Status status =
      socket.get(ipset_request(IPSET_CMD_PROTOCOL, kNewestProtocol), [&](const Message& message) {
        if (is_answer(message, IPSET_CMD_PROTOCOL)) {
          const Attributes attributes = message.attributes(sizeof(nfgenmsg));
          newest = attributes[IPSET_ATTR_PROTOCOL].u8();
          oldest = attributes[IPSET_ATTR_PROTOCOL_MIN].u8();
        }
      });
  if (!status) {
    if (status.error().errno_value() == EINVAL || status.error().errno_value() == EOPNOTSUPP) {
      return fail(Error(ErrorKind::kUnavailable, "the kernel has no ipset (module ip_set)",
                        status.error().errno_value()));
    }
    return fail(status.error().in("ask for the ipset protocol"));
  }
  if (!newest) {
    return fail(ErrorKind::kSystem, "the kernel does not say which ipset protocol it speaks");
  }
  const std::uint8_t least = oldest.value_or(*newest);
  if (*newest < kOldestProtocol || least > kNewestProtocol) {
    return fail(ErrorKind::kUnavailable, "the kernel speaks ipset protocols " +
                                             std::to_string(least) + " to " +
                                             std::to_string(*newest) + ", we 6 and 7");
  }
  return std::min(*newest, kNewestProtocol);
}

}  // namespace

Result<std::unique_ptr<IpSet>> make_ipset() {
  Result<Socket> socket = Socket::open(NETLINK_NETFILTER);
  if (!socket) {
    return fail(std::move(socket.error()).in("ipset"));
  }
  const Result<std::uint8_t> protocol = negotiate(*socket);
  if (!protocol) {
    return fail(protocol.error());
  }
  return std::make_unique<KernelIpSet>(std::move(*socket), *protocol);
}

}  // namespace fairlead::netlink
