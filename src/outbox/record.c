/*
 * outbox/record.c
 *		From a change to the bytes of its record.
 *
 * Images come from image.c.  The way back is in reader.c, which trusts nothing.  Allocates nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "outbox/parts.h"
#include "port/pg_bitutils.h"

#define MIN_SHARED 8			/* bytes worth the two numbers they cost */

/*
 * varint_write writes a number and returns the byte after it.
 */
static inline char *
varint_write(uint32 value, char *to)
{
	while (value >= 0x80)
	{
		*to++ = (char) (value | 0x80);
		value >>= 7;
	}
	*to++ = (char) value;
	return to;
}

/*
 * cqrs_record_command returns the command that made the change, from the header of the row version it made or ended.
 *
 * The command in progress would not do: a trigger that fires before ours and changes the row again has its change captured first.
 */
CommandId
cqrs_record_command(CqrsChangeKind kind, HeapTuple old_tuple, HeapTuple new_tuple)
{
	HeapTupleHeader header;

	header = kind == CQRS_CHANGE_DELETE ? old_tuple->t_data : new_tuple->t_data;
	if (!(header->t_infomask & HEAP_COMBOCID))
		return HeapTupleHeaderGetRawCommandId(header);
	return kind == CQRS_CHANGE_DELETE ? HeapTupleHeaderGetCmax(header) : HeapTupleHeaderGetCmin(header);
}

/*
 * word_at returns the eight bytes at an address.
 */
static inline uint64
word_at(const char *at)
{
	uint64		word;

	memcpy(&word, at, sizeof(word));
	return word;
}

/*
 * equal_first returns how many bytes of two words that differ are equal at their beginning.
 */
static inline Size
equal_first(uint64 left, uint64 right)
{
#ifdef WORDS_BIGENDIAN
	return 7 - pg_leftmost_one_pos64(left ^ right) / 8;
#else
	return pg_rightmost_one_pos64(left ^ right) / 8;
#endif
}

/*
 * equal_last returns how many bytes of two words that differ are equal at their end.
 */
static inline Size
equal_last(uint64 left, uint64 right)
{
#ifdef WORDS_BIGENDIAN
	return pg_rightmost_one_pos64(left ^ right) / 8;
#else
	return 7 - pg_leftmost_one_pos64(left ^ right) / 8;
#endif
}

/*
 * common_prefix returns how many bytes two strings share at their beginning.
 */
static inline Size
common_prefix(const char *left, const char *right, Size limit)
{
	Size		length = 0;

	for (; length + sizeof(uint64) <= limit; length += sizeof(uint64))
	{
		uint64		l = word_at(left + length);
		uint64		r = word_at(right + length);

		if (l != r)
			return length + equal_first(l, r);
	}
	while (length < limit && left[length] == right[length])
		length++;
	return length;
}

/*
 * common_suffix returns how many bytes two strings share at their end; they are given by it.
 */
static inline Size
common_suffix(const char *left, const char *right, Size limit)
{
	Size		length = 0;

	for (; length + sizeof(uint64) <= limit; length += sizeof(uint64))
	{
		uint64		l = word_at(left - length - sizeof(uint64));
		uint64		r = word_at(right - length - sizeof(uint64));

		if (l != r)
			return length + equal_last(l, r);
	}
	while (length < limit && *(left - length - 1) == *(right - length - 1))
		length++;
	return length;
}

/*
 * share_data finds out what data the new image of an update shares with the old one.
 */
static inline void
share_data(CqrsRecord *record)
{
	const CqrsImage *old_image = &record->old_image;
	const CqrsImage *new_image = &record->new_image;
	Size		limit = Min(old_image->length, new_image->length);

	record->prefix = common_prefix(old_image->data, new_image->data, limit);
	record->suffix = common_suffix(old_image->data + old_image->length, new_image->data + new_image->length,
								   limit - record->prefix);
	if (record->prefix + record->suffix < MIN_SHARED)
		record->prefix = record->suffix = 0;
}

/*
 * image_head returns the number that an image begins with.
 */
static inline uint32
image_head(const CqrsImage *image, bool shares)
{
	return image->natts << CQRS_IMAGE_SHIFT | image->flags | (shares ? CQRS_IMAGE_SHARES : 0);
}

/*
 * bitmap_size returns the length of an image's null bitmap.
 */
static inline Size
bitmap_size(const CqrsImage *image)
{
	return image->flags & CQRS_IMAGE_NULLS ? BITMAPLEN(image->natts) : 0;
}

/*
 * head_image puts the numbers in front of an image together and returns the bytes it takes with them, without what it shares.
 */
static inline Size
head_image(const CqrsImage *image, Size prefix, Size suffix, CqrsNumbers *head)
{
	bool		shares = prefix + suffix > 0;
	Size		length = image->length - prefix - suffix;
	char	   *to = varint_write(image_head(image, shares), head->bytes);

	if (shares)
		to = varint_write(suffix, varint_write(prefix, to));
	to = varint_write(length, to);
	head->size = to - head->bytes;
	return head->size + bitmap_size(image) + length;
}

/*
 * put_numbers copies numbers and returns the byte after them.  Always as many bytes, which takes no call.
 */
static inline char *
put_numbers(const CqrsNumbers *numbers, char *to)
{
	memcpy(to, numbers->bytes, CQRS_NUMBERS);
	return to + numbers->size;
}

/*
 * put_image writes an image, without what it shares, and returns the byte after it.
 */
static inline char *
put_image(const CqrsImage *image, const CqrsNumbers *head, Size prefix, Size suffix, char *to)
{
	Size		length = image->length - prefix - suffix;

	to = put_numbers(head, to);
	if (image->flags & CQRS_IMAGE_NULLS)
	{
		memcpy(to, image->bits, BITMAPLEN(image->natts));
		to += BITMAPLEN(image->natts);
	}
	memcpy(to, image->data + prefix, length);
	return to + length;
}

/*
 * cqrs_record_measure finds out what the images share, puts the numbers together, and returns the bytes the record takes without its leading length.
 */
Size
cqrs_record_measure(CqrsRecord *record)
{
	Size		length;

	record->head.bytes[0] = (char) record->kind;
	record->head.size = varint_write(record->command, varint_write(record->shape, record->head.bytes + 1)) - record->head.bytes;
	length = record->head.size + record->noted_size;
	record->prefix = record->suffix = 0;
	if (record->has_old && record->has_new)
		share_data(record);
	if (record->has_old)
		length += head_image(&record->old_image, 0, 0, &record->old_head);
	if (record->has_new)
		length += head_image(&record->new_image, record->prefix, record->suffix, &record->new_head);
	return length;
}

/*
 * cqrs_record_write writes a record with its leading length and returns the byte after it.
 */
char *
cqrs_record_write(const CqrsRecord *record, Size length, char *to)
{
	to = put_numbers(&record->head, varint_write(length, to));
	if (record->noted_size > 0)
	{
		memcpy(to, record->noted, record->noted_size);
		to += record->noted_size;
	}
	if (record->has_old)
		to = put_image(&record->old_image, &record->old_head, 0, 0, to);
	if (record->has_new)
		to = put_image(&record->new_image, &record->new_head, record->prefix, record->suffix, to);
	return to;
}

/*
 * cqrs_record_skip steps over a record of our own and tells its shape and command.
 */
const char *
cqrs_record_skip(const char *record, int32 *shape, CommandId *command)
{
	uint32		length;
	uint32		value;
	const char *after;

	record = cqrs_number_read(record, &length);
	after = record + length;
	record = cqrs_number_read(record + 1, &value);
	if (shape)
		*shape = (int32) value;
	if (command)
		(void) cqrs_number_read(record, command);
	return after;
}
