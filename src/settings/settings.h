/*
 * settings/settings.h
 *		The settings users can change, all with the prefix cqrs.
 */
#ifndef CQRS_SETTINGS_H
#define CQRS_SETTINGS_H

#include "postgres.h"

extern int	cqrs_setting_max_workers;		/* a database; 0 for none */
extern int	cqrs_setting_naptime;			/* ms */
extern int	cqrs_setting_lock_timeout;		/* ms */
extern int	cqrs_setting_buffer_size;		/* kB */
extern int	cqrs_setting_segment_size;		/* kB */
extern int	cqrs_setting_retention;			/* s; -1 keeps everything */
extern int	cqrs_setting_command_retention;	/* s; -1 keeps everything */
extern int	cqrs_setting_standby_retention; /* s; -1 for ever */
extern int	cqrs_setting_max_outbox_size;	/* MB; -1 no bound */
extern int	cqrs_setting_retry_initial;		/* ms */
extern int	cqrs_setting_retry_max;			/* ms */
extern int	cqrs_setting_synchronous_commit;	/* of the applier; values of SyncCommitLevel */
extern int	cqrs_setting_log_min_duration;	/* ms; -1 off, 0 all */
extern int	cqrs_setting_verify_interval;	/* s; 0 off */
extern double cqrs_setting_verify_sample;	/* share of the keys */
extern int	cqrs_setting_verify_timeout;	/* ms */

extern void cqrs_settings_define(void);

#endif							/* CQRS_SETTINGS_H */
