// SPDX-License-Identifier: Apache-2.0
// Reentrancy decides the shape of this file. libcurl must not be called from within its own
// callbacks, while our handlers may start and cancel requests as they like. So curl's callbacks
// only note what came; when curl has returned, `deliver` hands it on.
//
// A Generation is one curl multi handle, hence one pool of connections under one set of
// certificates. To stop using a connection we stop using its generation: the old one lives on
// until its last exchange is gone.
#include "kube/http.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <curl/curl.h>
#include <deque>
#include <map>
#include <mutex>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/text.h"
#include "kube/credentials.h"
#include "kube/url.h"

namespace fairlead::kube {
namespace {

struct EasyDeleter {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct MultiDeleter {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
using Easy = std::unique_ptr<CURL, EasyDeleter>;
using Multi = std::unique_ptr<CURLM, MultiDeleter>;

class List {
 public:
  List() = default;
  List(const List&) = delete;
  List& operator=(const List&) = delete;
  ~List() { curl_slist_free_all(list_); }
  void add(const std::string& line) {
    list_ = curl_slist_append(list_, line.c_str());
    FAIRLEAD_CHECK(list_ != nullptr);
  }
  [[nodiscard]] curl_slist* get() const { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

long milliseconds(event::Duration duration) {
  return static_cast<long>(std::chrono::ceil<std::chrono::milliseconds>(duration).count());
}

TransportError::Kind kind_of(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
      return TransportError::Kind::kUnreachable;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_CONNECT_ERROR:
      return TransportError::Kind::kUntrusted;
    case CURLE_OPERATION_TIMEDOUT:
      return TransportError::Kind::kTimeout;
    default:
      return TransportError::Kind::kBroken;
  }
}

/// Keep-alive after 30 s of silence, given up after three tries 5 s apart; the same 45 s for data
/// of ours that nobody acknowledges. The kernel's own defaults are hours and a quarter of one.
int tune_socket(void*, curl_socket_t fd, curlsocktype purpose) {
  if (purpose == CURLSOCKTYPE_IPCXN) {
    const auto set = [fd](int level, int name, int value) {
      // Refused only by kernels without the option, where the default has to do.
      (void)::setsockopt(fd, level, name, &value, sizeof value);
    };
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, 30);
    set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
    set(IPPROTO_TCP, TCP_KEEPCNT, 3);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, 45'000);
  }
  return CURL_SOCKOPT_OK;
}

struct Certificates {
  std::string authority;
  std::string client;
  std::string key;
  friend bool operator==(const Certificates&, const Certificates&) = default;
};

Result<Certificates> read_certificates(const ApiServerConfig& config) {
  Certificates read;
  for (const auto& [pem, into, what] :
       {std::tuple{&config.certificate_authority, &read.authority, "certificate authority"},
        std::tuple{&config.client_certificate, &read.client, "client certificate"},
        std::tuple{&config.client_key, &read.key, "client key"}}) {
    Result<std::string> text = pem->read();
    if (!text) {
      return fail(std::move(text.error()).in(what));
    }
    *into = std::move(*text);
  }
  return read;
}

}  // namespace

class HttpClient::Impl {
 public:
  struct Generation;

  struct Transfer {
    Impl* client = nullptr;  // null: the client is gone, or the exchange over
    Generation* generation = nullptr;
    Easy easy;
    List headers;
    List connect_to;
    std::array<char, CURL_ERROR_SIZE> curl_text{};
    HttpHandler handler;
    bool stream = false;  // has no deadline
    event::TimePoint last_byte;

    // What came and is not handed on yet.
    HttpHead head;
    bool head_complete = false;
    bool head_delivered = false;
    std::string data;
    bool ended = false;
    std::optional<TransportError> failure;  // of an end that is not a whole answer
    bool queued = false;

    void fail(TransportError reason) {
      ended = true;
      failure = std::move(reason);
    }
  };

  struct Generation {
    Impl* client = nullptr;
    Certificates certificates;
    std::unique_ptr<event::Timer> timer;
    std::map<curl_socket_t, std::unique_ptr<event::FdWatch>> watches;
    std::vector<std::shared_ptr<Transfer>> transfers;
    Multi multi;  // last: its destruction still calls back into `watches`
  };

  class Exchange final : public HttpExchange {
   public:
    explicit Exchange(std::shared_ptr<Transfer> transfer) : transfer_(std::move(transfer)) {}
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
    ~Exchange() override {
      transfer_->handler = {};
      if (transfer_->client != nullptr) {
        transfer_->client->drop(transfer_);
      }
    }
    void distrust_connection() override {
      if (transfer_->client != nullptr) {
        transfer_->client->distrust(*transfer_->generation, transfer_.get());
      }
    }

   private:
    std::shared_ptr<Transfer> transfer_;
  };

  Impl(event::Loop& loop, ApiServerConfig config, HttpOptions options, Certificates certificates)
      : loop_(loop),
        config_(std::move(config)),
        options_(std::move(options)),
        token_(config_),
        poll_(loop.timer([this] { poll_certificates(); })),
        pulse_(loop.timer([this] { pulse(); })) {
    add_generation(std::move(certificates));
    if (!config_.certificate_authority.file.empty() || !config_.client_certificate.file.empty() ||
        !config_.client_key.file.empty()) {
      poll_->start(options_.certificate_poll);
    }
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  ~Impl() {
    for (const auto& generation : generations_) {
      for (const std::shared_ptr<Transfer>& transfer : generation->transfers) {
        release(*transfer);
      }
      generation->transfers.clear();
    }
  }

  std::unique_ptr<HttpExchange> get(HttpRequest request, HttpHandler handler) {
    auto transfer = std::make_shared<Transfer>();
    transfer->handler = std::move(handler);
    transfer->client = this;
    transfer->stream = request.deadline == event::Duration::zero();
    transfer->last_byte = loop_.now();
    Generation& generation = *generations_.back();
    transfer->generation = &generation;
    transfer->easy.reset(curl_easy_init());
    FAIRLEAD_CHECK(transfer->easy != nullptr);
    generation.transfers.push_back(transfer);
    log::debug("API request", {{"target", request.target}});
    if (!set_up(*transfer, request) ||
        curl_multi_add_handle(generation.multi.get(), transfer->easy.get()) != CURLM_OK) {
      transfer->fail(
          TransportError{TransportError::Kind::kInvalid, "the request could not be set up"});
      queue(transfer);
      deliver_later();
    }
    if (transfer->stream && !probe_ && !pulse_->active() &&
        options_.idle_probe > event::Duration::zero()) {
      pulse_->start(options_.idle_probe);
    }
    return std::make_unique<Exchange>(std::move(transfer));
  }

 private:
  void add_generation(Certificates certificates) {
    auto made = std::make_unique<Generation>();
    Generation* generation = made.get();
    generation->client = this;
    generation->certificates = std::move(certificates);
    generation->timer =
        loop_.timer([this, generation] { act(*generation, CURL_SOCKET_TIMEOUT, 0); });
    generation->multi.reset(curl_multi_init());
    CURLM* multi = generation->multi.get();
    FAIRLEAD_CHECK(multi != nullptr);
    curl_multi_setopt(multi, CURLMOPT_PIPELINING, static_cast<long>(CURLPIPE_MULTIPLEX));
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, &on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, static_cast<void*>(generation));
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, &on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, static_cast<void*>(generation));
    generations_.push_back(std::move(made));
  }

  bool set_up(Transfer& transfer, const HttpRequest& request) {
    CURL* easy = transfer.easy.get();
    CURLcode bad = CURLE_OK;
    const auto set = [easy, &bad](CURLoption option, auto value) {
      const CURLcode code = curl_easy_setopt(easy, option, value);
      bad = bad == CURLE_OK ? code : bad;
    };
    set(CURLOPT_PRIVATE, static_cast<void*>(&transfer));
    set(CURLOPT_ERRORBUFFER, transfer.curl_text.data());
    set(CURLOPT_HEADERFUNCTION, &on_header);
    set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
    set(CURLOPT_WRITEFUNCTION, &on_body);
    set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
    set(CURLOPT_SOCKOPTFUNCTION, &tune_socket);
    set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_NOPROGRESS, 1L);
    set(CURLOPT_HTTPGET, 1L);
    set(CURLOPT_PROTOCOLS_STR, "http,https");
    set(CURLOPT_PATH_AS_IS, 1L);
    set(CURLOPT_BUFFERSIZE, 128L * 1024L);
    set(CURLOPT_QUICK_EXIT, 1L);  // else a cancelled name lookup is waited for
    set(CURLOPT_CONNECTTIMEOUT_MS, milliseconds(options_.connect_timeout));
    set(CURLOPT_TIMEOUT_MS, milliseconds(request.deadline));
    set(CURLOPT_USERAGENT, options_.user_agent.c_str());
    set(CURLOPT_HTTP_VERSION,
        static_cast<long>(options_.http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1));
    set(CURLOPT_PIPEWAIT, 1L);  // wait for the first connection rather than open a second
    if (!config_.disable_compression) {
      set(CURLOPT_ACCEPT_ENCODING, "gzip");
    }
    if (!config_.proxy_url.empty()) {
      set(CURLOPT_PROXY, config_.proxy_url.reveal().c_str());
    }
    set_up_tls(transfer, set);
    set_up_headers(transfer, set);
    set_up_address(transfer, request, set);
    return bad == CURLE_OK;
  }

  template <typename Set>
  void set_up_tls(const Transfer& transfer, const Set& set) {
    set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (config_.insecure_skip_tls_verify) {
      set(CURLOPT_SSL_VERIFYPEER, 0L);
      set(CURLOPT_SSL_VERIFYHOST, 0L);
    }
    // The texts live as long as the generation, and that longer than its transfers.
    const auto blob = [&set](CURLoption option, std::string& text) {
      if (!text.empty()) {
        curl_blob value{text.data(), text.size(), CURL_BLOB_NOCOPY};
        set(option, &value);
      }
    };
    Certificates& certificates = transfer.generation->certificates;
    if (!certificates.authority.empty()) {
      // A CA of the cluster replaces the system's; the folder of those is on by default.
      set(CURLOPT_CAPATH, static_cast<const char*>(nullptr));
      blob(CURLOPT_CAINFO_BLOB, certificates.authority);
    }
    if (!certificates.client.empty()) {
      set(CURLOPT_SSLCERTTYPE, "PEM");
      set(CURLOPT_SSLKEYTYPE, "PEM");
      blob(CURLOPT_SSLCERT_BLOB, certificates.client);
      blob(CURLOPT_SSLKEY_BLOB, certificates.key);
    }
  }

  template <typename Set>
  void set_up_headers(Transfer& transfer, const Set& set) {
    const auto add = [&transfer](const std::string& name, std::string_view value) {
      std::string line = name + ": ";
      line += value;
      transfer.headers.add(line);
    };
    add("Accept", "application/json");
    for (const auto& [name, value] : config_.headers) {
      add(name, value);
    }
    const Secret& token = token_.current(loop_.now());
    if (!token.empty()) {
      add("Authorization", "Bearer " + token.reveal());
    } else if (!config_.username.empty()) {
      set(CURLOPT_HTTPAUTH, static_cast<long>(CURLAUTH_BASIC));
      set(CURLOPT_USERNAME, config_.username.c_str());
      set(CURLOPT_PASSWORD, config_.password.reveal().c_str());
    }
    if (!config_.tls_server_name.empty()) {
      const Url url(curl_url());
      if (curl_url_set(url.get(), CURLUPART_URL, config_.server.c_str(), 0) == CURLUE_OK) {
        const std::string port = url_part(url, CURLUPART_PORT).value_or("");
        add("Host", url_part(url, CURLUPART_HOST).value_or("") + (port.empty() ? "" : ":" + port));
      }
    }
    set(CURLOPT_HTTPHEADER, transfer.headers.get());
    set(CURLOPT_HEADEROPT, static_cast<long>(CURLHEADER_SEPARATE));  // none of it to a proxy
  }

  template <typename Set>
  void set_up_address(Transfer& transfer, const HttpRequest& request, const Set& set) {
    if (config_.tls_server_name.empty()) {
      set(CURLOPT_URL, (config_.server + request.target).c_str());
      return;
    }
    // curl takes the name to verify from the URL only. So the URL gets that name, and the real
    // address is where to connect to.
    const Url url(curl_url());
    curl_url_set(url.get(), CURLUPART_URL, config_.server.c_str(), 0);
    const std::string host = url_part(url, CURLUPART_HOST).value_or("");
    const std::string port = url_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT).value_or("");
    curl_url_set(url.get(), CURLUPART_HOST, config_.tls_server_name.c_str(), 0);
    std::string named = url_part(url, CURLUPART_URL).value_or("");
    while (!named.empty() && named.back() == '/') {
      named.pop_back();
    }
    set(CURLOPT_URL, (named + request.target).c_str());
    transfer.connect_to.add("::" + host + ":" + port);
    set(CURLOPT_CONNECT_TO, transfer.connect_to.get());
  }

  static int on_socket(CURL*, curl_socket_t fd, int what, void* context, void*) {
    auto& generation = *static_cast<Generation*>(context);
    if (what == CURL_POLL_REMOVE) {
      generation.watches.erase(fd);
      return 0;
    }
    const event::FdEvents interest{
        .readable = what == CURL_POLL_IN || what == CURL_POLL_INOUT,
        .writable = what == CURL_POLL_OUT || what == CURL_POLL_INOUT,
    };
    const auto found = generation.watches.find(fd);
    if (found != generation.watches.end()) {
      found->second->set(interest);
      return 0;
    }
    Generation* owner = &generation;
    generation.watches.emplace(
        fd, generation.client->loop_.watch_fd(fd, interest, [owner, fd](event::FdEvents events) {
          const int mask =
              (events.readable ? CURL_CSELECT_IN : 0) | (events.writable ? CURL_CSELECT_OUT : 0);
          owner->client->act(*owner, fd, mask);
        }));
    return 0;
  }

  static int on_timer(CURLM*, long timeout_ms, void* context) {
    auto& generation = *static_cast<Generation*>(context);
    if (timeout_ms < 0) {
      generation.timer->stop();
    } else {
      generation.timer->start(std::chrono::milliseconds(timeout_ms));
    }
    return 0;
  }

  static std::size_t on_header(char* bytes, std::size_t size, std::size_t count, void* context) {
    auto& transfer = *static_cast<Transfer*>(context);
    const std::string_view line = trim(std::string_view(bytes, size * count));
    if (line.starts_with("HTTP/")) {
      transfer.head = {};
      const std::size_t blank = line.find(' ');
      const std::string_view code =
          blank == std::string_view::npos ? std::string_view() : line.substr(blank + 1, 3);
      transfer.head.status = static_cast<int>(parse_number(code, 999).value_or(0));
    } else if (line.empty()) {
      // 1xx heads precede the real one.
      if (transfer.head.status >= 200) {
        transfer.head_complete = true;
        transfer.client->note(transfer);
      }
    } else if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
      const std::string name = lower(line.substr(0, colon));
      const std::string_view value = trim(line.substr(colon + 1));
      if (name == "content-type") {
        transfer.head.content_type = std::string(value);
      } else if (name == "retry-after") {
        if (const auto seconds = parse_number(value, 3600)) {
          transfer.head.retry_after = std::chrono::seconds(*seconds);
        }
      }
    }
    return size * count;
  }

  static std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* context) {
    auto& transfer = *static_cast<Transfer*>(context);
    transfer.data.append(bytes, size * count);
    transfer.client->note(transfer);
    return size * count;
  }

  void note(Transfer& transfer) {
    transfer.last_byte = loop_.now();
    if (transfer.queued) {
      return;
    }
    const auto& all = transfer.generation->transfers;
    const auto found =
        std::ranges::find_if(all, [&](const auto& each) { return each.get() == &transfer; });
    if (found != all.end()) {
      queue(*found);
    }
  }

  void queue(const std::shared_ptr<Transfer>& transfer) {
    if (!transfer->queued) {
      transfer->queued = true;
      queue_.push_back(transfer);
    }
  }

  void act(Generation& generation, curl_socket_t fd, int mask) {
    int running = 0;
    const CURLMcode code = curl_multi_socket_action(generation.multi.get(), fd, mask, &running);
    if (code != CURLM_OK) {
      log::warn("API transport", {{"error", curl_multi_strerror(code)}});
    }
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(generation.multi.get(), &left)) {
      if (message->msg == CURLMSG_DONE) {
        finished(message->easy_handle, message->data.result);
      }
    }
    deliver();
  }

  void finished(CURL* easy, CURLcode code) {
    Transfer* noted = nullptr;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, &noted);
    FAIRLEAD_CHECK(noted != nullptr);
    Transfer& transfer = *noted;
    if (code == CURLE_OK) {
      transfer.ended = true;
    } else {
      std::string text = transfer.curl_text.front() != '\0' ? std::string(transfer.curl_text.data())
                                                            : std::string(curl_easy_strerror(code));
      TransportError::Kind kind = kind_of(code);
      curl_off_t connected = 0;
      curl_easy_getinfo(easy, CURLINFO_PRETRANSFER_TIME_T, &connected);
      if (kind == TransportError::Kind::kTimeout && connected == 0) {
        kind = TransportError::Kind::kUnreachable;
      }
      transfer.fail(TransportError{kind, std::move(text)});
    }
    note(transfer);
  }

  /// Handlers may start and drop exchanges, which only changes `queue_` at its end or marks a
  /// transfer as over.
  void deliver() {
    if (delivering_) {
      return;
    }
    delivering_ = true;
    while (!queue_.empty()) {
      const std::shared_ptr<Transfer> transfer = std::move(queue_.front());
      queue_.pop_front();
      transfer->queued = false;
      deliver(transfer);
    }
    delivering_ = false;
    sweep();
  }

  void deliver(const std::shared_ptr<Transfer>& transfer) {
    // Copies, since a handler may destroy the exchange and with it the handlers.
    if (transfer->head_complete && !transfer->head_delivered) {
      transfer->head_delivered = true;
      if (transfer->head.status == 401) {
        token_.expire();
      }
      const auto on_head = transfer->handler.on_head;
      if (on_head) {
        on_head(transfer->head);
      }
    }
    if (!transfer->data.empty()) {
      const std::string data = std::exchange(transfer->data, {});
      const auto on_data = transfer->handler.on_data;
      if (on_data) {
        on_data(data);
      }
    }
    if (!transfer->ended || transfer->client == nullptr) {
      return;
    }
    const std::optional<TransportError> end = std::move(transfer->failure);
    if (end && end->kind == TransportError::Kind::kTimeout) {
      retire(*transfer->generation);
    }
    const auto on_end = transfer->handler.on_end;
    drop(transfer);
    if (on_end) {
      on_end(end);
    }
  }

  /// Takes a transfer out of curl and out of its generation.
  void drop(const std::shared_ptr<Transfer>& transfer) {
    Generation& generation = *transfer->generation;
    release(*transfer);
    std::erase(generation.transfers, transfer);
    if (!delivering_ && &generation != generations_.back().get() && generation.transfers.empty()) {
      deliver_later();  // not at once: the generation's own timer or watch may be what is running
    }
  }

  void deliver_later() {
    // By then we may be gone; the loop outlives us.
    loop_.post([alive = std::weak_ptr<int>(alive_), this] {
      if (!alive.expired()) {
        deliver();
      }
    });
  }

  static void release(Transfer& transfer) {
    curl_multi_remove_handle(transfer.generation->multi.get(), transfer.easy.get());
    transfer.easy.reset();
    transfer.client = nullptr;
    transfer.generation = nullptr;
  }

  void retire(Generation& generation) {
    if (&generation != generations_.back().get()) {
      return;  // somebody else noticed before
    }
    log::debug("API connections given up", {{"server", config_.server}});
    Result<Certificates> certificates = read_certificates(config_);
    add_generation(certificates ? std::move(*certificates) : generation.certificates);
  }

  /// Streams of that generation from which nothing came lately end, but for `reporter`, who
  /// knows already.
  void distrust(Generation& generation, const Transfer* reporter) {
    retire(generation);
    for (const std::shared_ptr<Transfer>& transfer : generation.transfers) {
      const bool idle = loop_.now() - transfer->last_byte >= options_.idle_probe;
      if (transfer.get() != reporter && transfer->stream && idle && !transfer->ended) {
        transfer->fail(TransportError{TransportError::Kind::kBroken,
                                      "closed because the connection looked dead"});
        queue(transfer);
      }
    }
    deliver_later();
  }

  /// What HTTP/2's PING would do, which libcurl does not offer to users of the multi interface.
  void pulse() {
    Generation* generation = generations_.back().get();
    std::optional<event::TimePoint> last;
    for (const std::shared_ptr<Transfer>& transfer : generation->transfers) {
      if (transfer->stream) {
        last = std::max(last.value_or(transfer->last_byte), transfer->last_byte);
      }
    }
    if (!last) {
      return;  // the next stream starts us again
    }
    const event::Duration idle = loop_.now() - *last;
    if (idle < options_.idle_probe) {
      pulse_->start(options_.idle_probe - idle);
      return;
    }
    probe_ = get({.target = options_.probe_target, .deadline = options_.probe_deadline},
                 HttpHandler{
                     .on_head = {},
                     .on_data = {},
                     .on_end =
                         [this, generation](const std::optional<TransportError>& error) {
                           probed(generation, error);
                         },
                 });
  }

  void probed(Generation* generation, const std::optional<TransportError>& error) {
    probe_.reset();
    pulse_->start(options_.idle_probe);
    const bool exists = std::ranges::any_of(
        generations_, [&](const auto& each) { return each.get() == generation; });
    if (error && exists) {
      log::warn("API connection looks dead", {{"server", config_.server}, {"error", error->text}});
      distrust(*generation, nullptr);
    }
  }

  void sweep() {
    for (std::size_t i = 0; i + 1 < generations_.size();) {
      if (generations_[i]->transfers.empty()) {
        generations_.erase(generations_.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
  }

  void poll_certificates() {
    poll_->start(options_.certificate_poll);
    Result<Certificates> read = read_certificates(config_);
    if (!read) {
      log::error("certificates not readable, going on with the last ones",
                 {{"error", read.error().text()}});
      return;
    }
    if (*read == generations_.back()->certificates) {
      return;
    }
    log::info("certificates changed, connecting anew", {{"server", config_.server}});
    add_generation(std::move(*read));
    for (std::size_t i = 0; i + 1 < generations_.size(); ++i) {
      for (const std::shared_ptr<Transfer>& transfer : generations_[i]->transfers) {
        if (!transfer->ended) {
          transfer->fail(TransportError{TransportError::Kind::kBroken,
                                        "closed because the certificates changed"});
          queue(transfer);
        }
      }
    }
    deliver();
  }

  event::Loop& loop_;
  ApiServerConfig config_;
  HttpOptions options_;
  BearerToken token_;
  std::unique_ptr<event::Timer> poll_;
  std::unique_ptr<event::Timer> pulse_;
  std::unique_ptr<HttpExchange> probe_;
  std::vector<std::unique_ptr<Generation>> generations_;  // the last one takes new requests
  std::deque<std::shared_ptr<Transfer>> queue_;           // has something to hand on
  bool delivering_ = false;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;

Result<std::unique_ptr<HttpClient>> HttpClient::make(event::Loop& loop, ApiServerConfig config,
                                                     HttpOptions options) {
  static std::once_flag once;
  static CURLcode ready = CURLE_FAILED_INIT;
  std::call_once(once, [] { ready = curl_global_init(CURL_GLOBAL_DEFAULT); });
  if (ready != CURLE_OK) {
    return fail(ErrorKind::kSystem, std::string("libcurl: ") + curl_easy_strerror(ready));
  }
  Result<Certificates> certificates = read_certificates(config);
  if (!certificates) {
    return fail(std::move(certificates.error()).in("API server " + config.server));
  }
  return std::unique_ptr<HttpClient>(new HttpClient(std::make_unique<Impl>(
      loop, std::move(config), std::move(options), std::move(*certificates))));
}

std::unique_ptr<HttpExchange> HttpClient::get(HttpRequest request, HttpHandler handler) {
  return impl_->get(std::move(request), std::move(handler));
}

}  // namespace fairlead::kube
