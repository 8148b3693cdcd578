/*
 * settings/settings.c
 *		The settings users can change: names, units, defaults and bounds, all in one place.
 *
 * Whoever reads one reads its variable each time, as a reload or ALTER DATABASE may have changed it.  No transaction needed, nothing locked.
 */
#include "postgres.h"

#include <limits.h>

#include "access/xact.h"
#include "settings/settings.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#define MS_PER_DAY				(SECS_PER_DAY * 1000)

#define DEFAULT_MAX_WORKERS		1
#define MAX_MAX_WORKERS			64
#define DEFAULT_NAPTIME			(10 * 1000)
#define DEFAULT_LOCK_TIMEOUT	(30 * 1000)
#define DEFAULT_BUFFER_SIZE		256
#define MIN_BUFFER_SIZE			8			/* a chunk is about a page */
#define MAX_BUFFER_SIZE			(1024 * 1024)
#define DEFAULT_SEGMENT_SIZE	(64 * 1024)
#define MIN_SEGMENT_SIZE		64
#define MAX_SEGMENT_SIZE		(16 * 1024 * 1024)
#define DEFAULT_RETENTION		SECS_PER_DAY
#define DEFAULT_COMMAND_RETENTION (7 * SECS_PER_DAY)
#define DEFAULT_MAX_OUTBOX_SIZE (10 * 1024)
#define DEFAULT_RETRY_INITIAL	100
#define DEFAULT_RETRY_MAX		(60 * 1000)
#define DEFAULT_LOG_DURATION	(-1)
#define DEFAULT_VERIFY_SAMPLE	0.01
#define MIN_VERIFY_SAMPLE		1e-9
#define DEFAULT_VERIFY_TIMEOUT	1000

int			cqrs_setting_max_workers = DEFAULT_MAX_WORKERS;
int			cqrs_setting_naptime = DEFAULT_NAPTIME;
int			cqrs_setting_lock_timeout = DEFAULT_LOCK_TIMEOUT;
int			cqrs_setting_buffer_size = DEFAULT_BUFFER_SIZE;
int			cqrs_setting_segment_size = DEFAULT_SEGMENT_SIZE;
int			cqrs_setting_retention = DEFAULT_RETENTION;
int			cqrs_setting_command_retention = DEFAULT_COMMAND_RETENTION;
int			cqrs_setting_max_outbox_size = DEFAULT_MAX_OUTBOX_SIZE;
int			cqrs_setting_standby_retention = DEFAULT_RETENTION;
int			cqrs_setting_retry_initial = DEFAULT_RETRY_INITIAL;
int			cqrs_setting_retry_max = DEFAULT_RETRY_MAX;
int			cqrs_setting_synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
int			cqrs_setting_log_min_duration = DEFAULT_LOG_DURATION;
int			cqrs_setting_verify_interval = 0;
double		cqrs_setting_verify_sample = DEFAULT_VERIFY_SAMPLE;
int			cqrs_setting_verify_timeout = DEFAULT_VERIFY_TIMEOUT;

/* What the server's synchronous_commit takes, as the server shows it; the rest is hidden there, too. */
static const struct config_enum_entry synchronous_commit_options[] = {
	{"local", SYNCHRONOUS_COMMIT_LOCAL_FLUSH, false},
	{"remote_write", SYNCHRONOUS_COMMIT_REMOTE_WRITE, false},
	{"remote_apply", SYNCHRONOUS_COMMIT_REMOTE_APPLY, false},
	{"on", SYNCHRONOUS_COMMIT_REMOTE_FLUSH, false},
	{"off", SYNCHRONOUS_COMMIT_OFF, false},
	{"true", SYNCHRONOUS_COMMIT_REMOTE_FLUSH, true},
	{"false", SYNCHRONOUS_COMMIT_OFF, true},
	{"yes", SYNCHRONOUS_COMMIT_REMOTE_FLUSH, true},
	{"no", SYNCHRONOUS_COMMIT_OFF, true},
	{"1", SYNCHRONOUS_COMMIT_REMOTE_FLUSH, true},
	{"0", SYNCHRONOUS_COMMIT_OFF, true},
	{NULL, 0, false}
};

/*
 * check_max_outbox_size refuses no outbox at all.
 */
static bool
check_max_outbox_size(int *value, void **extra, GucSource source)
{
	if (*value != 0)
		return true;
	GUC_check_errdetail("The outbox takes at least 1 MB; -1 sets no bound.");
	return false;
}

/*
 * define_outbox defines how large the outbox and what is known of commands become; a database can have values of its own.
 */
static void
define_outbox(void)
{
	DefineCustomIntVariable("cqrs.command_retention",
							"Sets for how long it is known of a command with an id that it was executed.",
							"-1 keeps it for ever.",
							&cqrs_setting_command_retention, DEFAULT_COMMAND_RETENTION, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.max_outbox_size",
							"Sets the size of the outbox past which segments are freed that are still needed.",
							"The projections that need them are then evaluated anew; -1 sets no bound.",
							&cqrs_setting_max_outbox_size, DEFAULT_MAX_OUTBOX_SIZE, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MB, check_max_outbox_size, NULL, NULL);
	DefineCustomIntVariable("cqrs.retention",
							"Sets how long segments of the outbox are kept that every projection has consumed.",
							"-1 keeps them for ever, as far as cqrs.max_outbox_size allows.",
							&cqrs_setting_retention, DEFAULT_RETENTION, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.segment_size",
							"Sets the size at which a segment of the outbox is closed and another is opened.",
							NULL,
							&cqrs_setting_segment_size, DEFAULT_SEGMENT_SIZE, MIN_SEGMENT_SIZE, MAX_SEGMENT_SIZE,
							PGC_SUSET, GUC_UNIT_KB, NULL, NULL, NULL);
}

/*
 * define_session defines what a session or a database can have a value of its own for.
 */
static void
define_session(void)
{
	DefineCustomIntVariable("cqrs.buffer_size",
							"Sets the memory in which a transaction collects captured changes before it writes them to the outbox.",
							NULL,
							&cqrs_setting_buffer_size, DEFAULT_BUFFER_SIZE, MIN_BUFFER_SIZE, MAX_BUFFER_SIZE,
							PGC_USERSET, GUC_UNIT_KB, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.lock_timeout",
							"Sets how long locks on sources are asked for, in short tries, before that is an error.",
							NULL,
							&cqrs_setting_lock_timeout, DEFAULT_LOCK_TIMEOUT, 1, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.log_min_duration",
							"Sets the duration of a batch from which on it is logged.",
							"Zero logs all batches, -1 none.",
							&cqrs_setting_log_min_duration, DEFAULT_LOG_DURATION, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.max_workers",
							"Sets how many workers a database can have.",
							"Zero stops them; ALTER DATABASE sets it for one database.",
							&cqrs_setting_max_workers, DEFAULT_MAX_WORKERS, 0, MAX_MAX_WORKERS,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.standby_retention",
							"Sets how long a version that a rebuild has replaced is kept as standby.",
							"-1 keeps it until it is retired by hand.",
							&cqrs_setting_standby_retention, DEFAULT_RETENTION, -1, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
}

/*
 * define_server defines what only the processes of the extension look at.
 */
static void
define_server(void)
{
	DefineCustomIntVariable("cqrs.naptime",
							"Sets after what time at most a worker looks for work that nobody woke it for.",
							"A safety net: commits wake workers at once.",
							&cqrs_setting_naptime, DEFAULT_NAPTIME, 1, MS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.retry_initial",
							"Sets how long after its first failure a projection is tried again.",
							"The delay doubles with each failure in a row, up to cqrs.retry_max.",
							&cqrs_setting_retry_initial, DEFAULT_RETRY_INITIAL, 1, MS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.retry_max",
							"Sets the longest delay between two tries of a projection that fails.",
							NULL,
							&cqrs_setting_retry_max, DEFAULT_RETRY_MAX, 1, MS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomEnumVariable("cqrs.synchronous_commit",
							 "Sets synchronous_commit for the transactions of workers.",
							 "What a crash undoes of them is applied again.",
							 &cqrs_setting_synchronous_commit, SYNCHRONOUS_COMMIT_OFF, synchronous_commit_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}

/*
 * define_verify defines how workers verify by themselves.
 */
static void
define_verify(void)
{
	DefineCustomIntVariable("cqrs.verify_interval",
							"Sets how often a worker compares a sample of each projection's keys with its query.",
							"Zero turns that off.",
							&cqrs_setting_verify_interval, 0, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomRealVariable("cqrs.verify_sample",
							 "Sets the share of the keys that a worker looks at when it verifies.",
							 NULL,
							 &cqrs_setting_verify_sample, DEFAULT_VERIFY_SAMPLE, MIN_VERIFY_SAMPLE, 1,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("cqrs.verify_timeout",
							"Sets for how long a worker may verify, while others wait for it.",
							"What takes longer is given up, and tried next time with a smaller sample.",
							&cqrs_setting_verify_timeout, DEFAULT_VERIFY_TIMEOUT, 1, MS_PER_DAY,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
}

/*
 * cqrs_settings_define makes the settings known to the server and takes the prefix.
 */
void
cqrs_settings_define(void)
{
	define_outbox();
	define_session();
	define_server();
	define_verify();
	MarkGUCPrefixReserved("cqrs");
}
