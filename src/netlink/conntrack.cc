// SPDX-License-Identifier: Apache-2.0
#include "netlink/conntrack.h"

#include <cerrno>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <optional>
#include <sys/socket.h>
#include <utility>

#include "netlink/socket.h"

namespace fairlead::netlink {
namespace {

// "Compare the protocol number", in the kernel's own numbering of tuple fields; no header has it.
constexpr std::uint32_t kFilterProtocol = 1U << 3U;

Request ct_request(std::uint8_t command, net::Family family) {
  Request request(static_cast<std::uint16_t>((NFNL_SUBSYS_CTNETLINK << 8U) | command));
  request.put_header(nfgenmsg{.nfgen_family = static_cast<std::uint8_t>(net::socket_family(family)),
                              .version = NFNETLINK_V0,
                              .res_id = 0});
  return request;
}

/// Only entries of one family and, from Linux 5.8 on, one protocol; older kernels skip the unknown
/// attribute and give all protocols.
Request dump_request(net::Family family, net::Protocol protocol, bool filtered) {
  Request request = ct_request(IPCTNL_MSG_CT_GET, family);
  if (filtered) {
    const Request::Nest filter = request.begin(CTA_FILTER);
    request.put_u32(CTA_FILTER_ORIG_FLAGS, kFilterProtocol);
    request.put_u32(CTA_FILTER_REPLY_FLAGS, 0);
    request.end(filter);
    const Request::Nest tuple = request.begin(CTA_TUPLE_ORIG);
    const Request::Nest proto = request.begin(CTA_TUPLE_PROTO);
    request.put_u8(CTA_PROTO_NUM, static_cast<std::uint8_t>(protocol));
    request.end(proto);
    request.end(tuple);
  }
  return request;
}

Request delete_request(const Flow& flow) {
  const FlowTuple& original = flow.original;
  const bool is_v4 = original.source.address.is_v4();
  Request request = ct_request(IPCTNL_MSG_CT_DELETE, original.source.address.family());
  const Request::Nest tuple = request.begin(CTA_TUPLE_ORIG);
  const Request::Nest ip = request.begin(CTA_TUPLE_IP);
  request.put_bytes(is_v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, original.source.address.bytes());
  request.put_bytes(is_v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, original.destination.address.bytes());
  request.end(ip);
  const Request::Nest proto = request.begin(CTA_TUPLE_PROTO);
  request.put_u8(CTA_PROTO_NUM, static_cast<std::uint8_t>(flow.protocol));
  request.put_be16(CTA_PROTO_SRC_PORT, Be16(net::number(original.source.port)));
  request.put_be16(CTA_PROTO_DST_PORT, Be16(net::number(original.destination.port)));
  request.end(proto);
  request.end(tuple);
  return request;
}

std::optional<net::SocketAddress> read_end(const Attribute& v4, const Attribute& v6,
                                           const Attribute& port) {
  const auto bytes = (v4 ? v4 : v6).bytes();
  const auto number = port.be16();
  if (bytes.size() != (v4 ? 4U : 16U) || !number) {
    return std::nullopt;
  }
  return net::SocketAddress{.address = net::IpAddress::from_bytes(bytes),
                            .port = net::Port{number->host()}};
}

std::optional<FlowTuple> read_tuple(const Attributes& tuple, net::Protocol protocol) {
  const Attributes ip = tuple.nest(CTA_TUPLE_IP);
  const Attributes proto = tuple.nest(CTA_TUPLE_PROTO);
  if (proto[CTA_PROTO_NUM].u8() != static_cast<std::uint8_t>(protocol)) {
    return std::nullopt;
  }
  const auto source = read_end(ip[CTA_IP_V4_SRC], ip[CTA_IP_V6_SRC], proto[CTA_PROTO_SRC_PORT]);
  const auto destination =
      read_end(ip[CTA_IP_V4_DST], ip[CTA_IP_V6_DST], proto[CTA_PROTO_DST_PORT]);
  if (!source || !destination) {
    return std::nullopt;
  }
  return FlowTuple{.source = *source, .destination = *destination};
}

/// nullopt for entries of other protocols, and of other zones than the default one: those are other
/// programs' virtual networks, where our service addresses mean nothing.
std::optional<Flow> read_flow(const Message& message, net::Protocol protocol) {
  const Attributes attributes = message.attributes(sizeof(nfgenmsg));
  const auto zone = attributes[CTA_ZONE].be16();
  const auto original = read_tuple(attributes.nest(CTA_TUPLE_ORIG), protocol);
  const auto reply = read_tuple(attributes.nest(CTA_TUPLE_REPLY), protocol);
  if ((zone && zone->raw() != 0) || !original || !reply) {
    return std::nullopt;
  }
  return Flow{.protocol = protocol, .original = *original, .reply = *reply};
}

class KernelConntrack final : public Conntrack {
 public:
  explicit KernelConntrack(Socket socket) : socket_(std::move(socket)) {}

  Status dump(net::Family family, net::Protocol protocol,
              const std::function<void(const Flow&)>& on_flow) override {
    // Collected first: a repeated dump must not tell the caller of one flow twice.
    std::vector<Flow> flows;
    Status status = collect(dump_request(family, protocol, filter_works_), family, protocol, flows);
    if (!status && filter_works_ &&
        (status.error().errno_value() == EINVAL || status.error().errno_value() == EOPNOTSUPP)) {
      filter_works_ = false;
      status = collect(dump_request(family, protocol, false), family, protocol, flows);
    }
    if (!status) {
      const std::string what = "list " + std::string(net::text(protocol)) + " flows over " +
                               std::string(net::text(family));
      if (status.error().errno_value() == EINVAL || status.error().errno_value() == EOPNOTSUPP) {
        return fail(Error(ErrorKind::kUnavailable,
                          what + ": the kernel has no ctnetlink (module nf_conntrack_netlink)",
                          status.error().errno_value()));
      }
      return fail(std::move(status.error()).in(what));
    }
    for (const Flow& flow : flows) {
      on_flow(flow);
    }
    return {};
  }

  std::vector<Status> remove(std::span<const Flow> flows) override {
    std::vector<Status> results(flows.size());
    std::vector<Request> requests;
    std::vector<std::size_t> indices;
    requests.reserve(flows.size());
    indices.reserve(flows.size());
    for (std::size_t i = 0; i < flows.size(); ++i) {
      const FlowTuple& original = flows[i].original;
      if (original.source.address.family() != original.destination.address.family()) {
        results[i] = fail(ErrorKind::kInvalidInput, what(flows[i]) + ": two address families");
        continue;
      }
      requests.push_back(delete_request(flows[i]));
      indices.push_back(i);
    }
    const std::vector<Status> answers = socket_.execute(requests);
    for (std::size_t i = 0; i < answers.size(); ++i) {
      if (!answers[i] && answers[i].error().kind() != ErrorKind::kNotFound) {
        results[indices[i]] = fail(answers[i].error().in(what(flows[indices[i]])));
      }
    }
    return results;
  }

 private:
  static std::string what(const Flow& flow) {
    return "delete " + std::string(net::text(flow.protocol)) + " flow " +
           flow.original.source.text() + " -> " + flow.original.destination.text();
  }

  Status collect(const Request& request, net::Family family, net::Protocol protocol,
                 std::vector<Flow>& flows) {
    return socket_.dump(
        request,
        [&](const Message& message) {
          const auto header = message.header<nfgenmsg>();
          if (!header || header->nfgen_family != net::socket_family(family)) {
            return;
          }
          if (const auto flow = read_flow(message, protocol)) {
            flows.push_back(*flow);
          }
        },
        [&] { flows.clear(); });
  }

  Socket socket_;
  bool filter_works_ = true;
};

}  // namespace

Result<std::unique_ptr<Conntrack>> make_conntrack() {
  Result<Socket> socket = Socket::open(NETLINK_NETFILTER);
  if (!socket) {
    return fail(std::move(socket.error()).in("ctnetlink"));
  }
  return std::make_unique<KernelConntrack>(std::move(*socket));
}

}  // namespace fairlead::netlink
