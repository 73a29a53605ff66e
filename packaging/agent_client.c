/*
 * Let a running agent do this call: before the interpreter is started, which is most of what
 * a call costs. Compiled into the bootloader by bootloader.py; cni_faasm/agent.py is the
 * other side and describes what is said.
 *
 * Whatever is not as it must be makes the caller do the call itself, as if there were no agent.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_PATH "/run/cni-faasm/agent"
#define GREETING "faasm-agent 1"
/* An agent that does not answer in this time is none. */
#define READY_WITHIN_MS 1000
#define MAX_REQUEST (128 * 1024)
#define MAX_ANSWER (16 * 1024 * 1024)

extern char **environ;

/* A death in the middle: what is half done is found by the next DEL, GC or ADD. */
static const char LOST[] =
    "{\"cniVersion\": \"1.0.0\", \"code\": 11, "
    "\"msg\": \"the agent's process ended in the middle of the call; try again later\", "
    "\"details\": \"nothing is lost: DEL, or GC, removes what was begun; the agent's journal tells more\"}\n";

static int
_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = SOCKET_PATH};
    struct ucred peer;
    socklen_t size = sizeof(peer);
    int agent = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (agent < 0) {
        return -1;
    }
    /* Without waiting: a full queue means that the agent hangs. */
    fcntl(agent, F_SETFL, O_NONBLOCK);
    if (connect(agent, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        getsockopt(agent, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != 0) {
        close(agent);
        return -1;
    }
    fcntl(agent, F_SETFL, 0);
    return agent;
}

/* Greeting, umask and environment, each ended by NUL. Returns the length, 0 when too long. */
static size_t
_request(char *text)
{
    mode_t mask = umask(0);
    size_t length;
    char **variable;

    umask(mask);
    length = (size_t)sprintf(text, GREETING "%c%03o", 0, (unsigned)mask) + 1;
    for (variable = environ; *variable != NULL; variable++) {
        size_t more = strlen(*variable) + 1;
        if (more > MAX_REQUEST - length) {
            return 0;
        }
        memcpy(text + length, *variable, more);
        length += more;
    }
    return length;
}

static int
_send(int agent, char *text, size_t length, int folder)
{
    union {
        char bytes[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr align;
    } control = {{0}};
    struct iovec part = {.iov_base = text, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &part,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int descriptors[4] = {0, 1, 2, folder};

    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof(descriptors));
    memcpy(CMSG_DATA(head), descriptors, sizeof(descriptors));
    return sendmsg(agent, &message, MSG_NOSIGNAL) == (ssize_t)length ? 0 : -1;
}

/* Receives one message. Returns the length of what follows its first byte, which is its kind. */
static ssize_t
_receive(int agent, char *kind, char *text, size_t size)
{
    struct iovec parts[2] = {{.iov_base = kind, .iov_len = 1}, {.iov_base = text, .iov_len = size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t length;

    do {
        length = recvmsg(agent, &message, 0);
    } while (length < 0 && errno == EINTR);
    return length > 0 && !(message.msg_flags & MSG_TRUNC) ? length - 1 : -1;
}

/* Returns whether all could be written to stdout. */
static int
_tell(const char *text, size_t length)
{
    while (length > 0) {
        ssize_t done = write(1, text, length);
        if (done < 0 && errno != EINTR) {
            return 0;
        }
        if (done > 0) {
            text += done;
            length -= (size_t)done;
        }
    }
    return 1;
}

/*
 * Waits for the end of the call and tells the runtime. Returns its exit status, -1 when nothing
 * was begun.
 */
static int
_end(int agent)
{
    static char answer[MAX_ANSWER];
    size_t length = 0;
    ssize_t received;
    char kind;

    while ((received = _receive(agent, &kind, answer + length, MAX_ANSWER - length)) > 0 && kind == 'd') {
        length += (size_t)received;
    }
    if (received == 0 && kind == 'n') {
        return -1;
    }
    if (received != 1 || kind != 's') {
        _tell(LOST, sizeof(LOST) - 1);
        return 1;
    }
    /* Unless the agent hears that it was told, it undoes what nobody knows of. */
    if (!_tell(answer, length)) {
        return 1;
    }
    send(agent, "k", 1, MSG_NOSIGNAL);
    return answer[length];
}

/* Returns whether there is somebody who would take the call. */
static int
_is_ready(int agent)
{
    struct pollfd wanted = {.fd = agent, .events = POLLIN};
    char kind, more;

    return poll(&wanted, 1, READY_WITHIN_MS) == 1 && _receive(agent, &kind, &more, 1) == 0 && kind == 'y';
}

/* Returns whether a path means something else to another process. */
static int
_is_of_caller(const char *path)
{
    return path != NULL && (strncmp(path, "/proc/self/", 11) == 0 || strncmp(path, "/dev/fd/", 8) == 0 ||
                            strncmp(path, "/proc/thread-self/", 18) == 0);
}

/*
 * Returns the exit status of the call that the agent has done, -1 when it is to be done here.
 */
int
faasm_ask_agent(int argc)
{
    static char text[MAX_REQUEST];
    const char *verb = getenv("CNI_COMMAND");
    sigset_t ending, before;
    size_t length;
    int agent, folder, status = -1;

    if (argc != 1 || verb == NULL || *verb == 0 || _is_of_caller(getenv("CNI_NETNS"))) {
        return -1;
    }
    /* What is opened here must not become a standard descriptor that the caller closed. */
    if (fcntl(0, F_GETFD) < 0 || fcntl(1, F_GETFD) < 0 || fcntl(2, F_GETFD) < 0) {
        return -1;
    }
    agent = _connect();
    if (agent < 0) {
        return -1;
    }
    /* Like a call that is done here: who has begun is not stopped in the middle. */
    sigemptyset(&ending);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGINT);
    sigprocmask(SIG_BLOCK, &ending, &before);
    folder = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    length = _request(text);
    /* Descriptors in the queue of an agent that hangs would keep the runtime waiting. */
    if (folder >= 0 && length > 0 && _is_ready(agent) && _send(agent, text, length, folder) == 0) {
        status = _end(agent);
    }
    if (folder >= 0) {
        close(folder);
    }
    close(agent);
    if (status < 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
    }
    return status;
}
