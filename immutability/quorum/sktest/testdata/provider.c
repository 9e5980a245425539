/* A security key that ssh-keygen loads (-w), for tests: it asks the test, over the unix socket in HOLDFAST_TEST_SK, to make keys
 * and signatures. It speaks version 10 of OpenSSH's interface for such libraries.
 *
 * Asked:    byte what (1 enrol, 2 sign) | byte algorithm | byte flags | text data | text application | text handle
 * Answered: byte good | byte flags | uint32 counter | text first | text second; a text is a uint32 of its length, and its bytes
 */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct sk_option;

struct sk_enroll_response {
	uint8_t flags;
	uint8_t *public_key;
	size_t public_key_len;
	uint8_t *key_handle;
	size_t key_handle_len;
	uint8_t *signature;
	size_t signature_len;
	uint8_t *attestation_cert;
	size_t attestation_cert_len;
	uint8_t *authdata;
	size_t authdata_len;
};

struct sk_sign_response {
	uint8_t flags;
	uint32_t counter;
	uint8_t *sig_r;
	size_t sig_r_len;
	uint8_t *sig_s;
	size_t sig_s_len;
};

static int put(int fd, const void *p, size_t n) {
	for (const char *at = p; n > 0;) {
		ssize_t w = write(fd, at, n);
		if (w <= 0)
			return -1;
		at += w;
		n -= w;
	}
	return 0;
}

static int get(int fd, void *p, size_t n) {
	for (char *at = p; n > 0;) {
		ssize_t r = read(fd, at, n);
		if (r <= 0)
			return -1;
		at += r;
		n -= r;
	}
	return 0;
}

static int put_text(int fd, const void *p, size_t n) {
	uint32_t len = htonl(n);
	return put(fd, &len, 4) || put(fd, p, n);
}

static int get_text(int fd, uint8_t **p, size_t *n) {
	uint32_t len;
	if (get(fd, &len, 4))
		return -1;
	*n = ntohl(len);
	if (*n > 65536 || (*p = calloc(1, *n + 1)) == NULL)
		return -1;
	return get(fd, *p, *n);
}

/* ask has the test do one thing. */
static int ask(uint8_t what, uint32_t alg, uint8_t *flags, uint32_t *counter, const uint8_t *data, size_t data_len, const char *application,
    const uint8_t *handle, size_t handle_len, uint8_t **first, size_t *first_len, uint8_t **second, size_t *second_len) {
	const char *path = getenv("HOLDFAST_TEST_SK");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	uint8_t head[3] = {what, alg, *flags}, good[2];
	int fd = -1, bad = -1;

	if (path == NULL || strlen(path) >= sizeof to.sun_path)
		return -1;
	strcpy(to.sun_path, path);
	if ((fd = socket(AF_UNIX, SOCK_STREAM, 0)) < 0)
		return -1;
	if (connect(fd, (struct sockaddr *)&to, sizeof to) || put(fd, head, 3) || put_text(fd, data, data_len) ||
	    put_text(fd, application, strlen(application)) || put_text(fd, handle, handle_len) || get(fd, good, 2) || !good[0] ||
	    get(fd, counter, 4) || get_text(fd, first, first_len) || get_text(fd, second, second_len))
		goto out;
	*flags = good[1];
	*counter = ntohl(*counter);
	bad = 0;
out:
	close(fd);
	return bad;
}

uint32_t sk_api_version(void) { return 0x000a0000; }

int sk_enroll(uint32_t alg, const uint8_t *challenge, size_t challenge_len, const char *application, uint8_t flags, const char *pin,
    struct sk_option **options, struct sk_enroll_response **out) {
	struct sk_enroll_response *r = calloc(1, sizeof *r);
	uint8_t asked = flags;
	uint32_t counter;

	if (r == NULL || ask(1, alg, &asked, &counter, challenge, challenge_len, application, NULL, 0, &r->public_key, &r->public_key_len, &r->key_handle, &r->key_handle_len))
		return -1;
	r->flags = flags;
	r->signature = calloc(1, 1);
	*out = r;
	return 0;
}

int sk_sign(uint32_t alg, const uint8_t *data, size_t data_len, const char *application, const uint8_t *handle, size_t handle_len,
    uint8_t flags, const char *pin, struct sk_option **options, struct sk_sign_response **out) {
	struct sk_sign_response *r = calloc(1, sizeof *r);

	if (r == NULL)
		return -1;
	r->flags = flags;
	if (ask(2, alg, &r->flags, &r->counter, data, data_len, application, handle, handle_len, &r->sig_r, &r->sig_r_len, &r->sig_s, &r->sig_s_len))
		return -1;
	if (r->sig_s_len == 0) {
		free(r->sig_s);
		r->sig_s = NULL;
	}
	*out = r;
	return 0;
}

int sk_load_resident_keys(const char *pin, struct sk_option **options, void ***keys, size_t *n) {
	*keys = NULL;
	*n = 0;
	return 0;
}
