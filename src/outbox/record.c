/*
 * outbox/record.c
 *		From a change to the bytes of its record.
 *
 * Rows keep the layout they have on the page, so that encoding one is a copy; only values stored out of line are fetched, since a stored pointer to them
 * would dangle.  The way back is in reader.c, which trusts nothing.  Needs a snapshot only where values are fetched; memory is the caller's.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "outbox/parts.h"

#define MIN_SHARED 8			/* bytes worth the two numbers they cost */

/*
 * varint_size returns the bytes a number takes.
 */
static inline Size
varint_size(uint32 value)
{
	Size		size = 1;

	while (value >= 0x80)
	{
		value >>= 7;
		size++;
	}
	return size;
}

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
 * varint_read reads a number of our own and returns the byte after it.
 */
static inline const char *
varint_read(const char *from, uint32 *value)
{
	uint32		result = 0;
	int			shift = 0;
	uint8		byte;

	do
	{
		byte = (uint8) *from++;
		result |= (uint32) (byte & 0x7f) << shift;
		shift += 7;
	} while (byte & 0x80);
	*value = result;
	return from;
}

/*
 * is_flat tells whether a tuple can be copied as it is: no value out of line, and none that only the table's descriptor knows.
 *
 * A tuple written before ALTER TABLE ADD COLUMN is shorter than the descriptor.  That is fine for columns that are null in it, but not if one has a
 * missing value, which shapes do not keep.
 */
static inline bool
is_flat(HeapTuple tuple, TupleDesc desc)
{
	int			natts = HeapTupleHeaderGetNatts(tuple->t_data);

	if (HeapTupleHasExternal(tuple))
		return false;
	return natts == desc->natts ||
		(natts < desc->natts && (desc->constr == NULL || desc->constr->missing == NULL));
}

/*
 * form_flat forms a tuple anew, with values fetched, missing ones filled in, and those of dropped columns left out.
 */
static HeapTuple
form_flat(HeapTuple tuple, TupleDesc desc)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(tuple, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attisdropped)
			nulls[i] = true;
		else if (!nulls[i] && att->attlen == -1 && VARATT_IS_EXTERNAL(DatumGetPointer(values[i])))
			values[i] = PointerGetDatum(detoast_external_attr((struct varlena *) DatumGetPointer(values[i])));
	}
	return heap_form_tuple(desc, values, nulls);
}

/*
 * cqrs_record_flatten returns the tuple with all of its values in it: itself if it is so already.
 */
HeapTuple
cqrs_record_flatten(HeapTuple tuple, TupleDesc desc)
{
	return is_flat(tuple, desc) ? tuple : form_flat(tuple, desc);
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

	if (kind == CQRS_CHANGE_TRUNCATE)
		return GetCurrentCommandId(false);
	header = kind == CQRS_CHANGE_DELETE ? old_tuple->t_data : new_tuple->t_data;
	if (!(header->t_infomask & HEAP_COMBOCID))
		return HeapTupleHeaderGetRawCommandId(header);
	return kind == CQRS_CHANGE_DELETE ? HeapTupleHeaderGetCmax(header) : HeapTupleHeaderGetCmin(header);
}

/*
 * data_of returns a tuple's data, and how long it is.
 */
static inline const char *
data_of(HeapTuple tuple, Size *length)
{
	*length = tuple->t_len - tuple->t_data->t_hoff;
	return (const char *) tuple->t_data + tuple->t_data->t_hoff;
}

/*
 * common_prefix returns how many bytes two strings share at their beginning.
 */
static inline Size
common_prefix(const char *left, const char *right, Size limit)
{
	Size		length = 0;

	while (length + sizeof(uint64) <= limit && memcmp(left + length, right + length, sizeof(uint64)) == 0)
		length += sizeof(uint64);
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

	while (length + sizeof(uint64) <= limit &&
		   memcmp(left - length - sizeof(uint64), right - length - sizeof(uint64), sizeof(uint64)) == 0)
		length += sizeof(uint64);
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
	Size		old_length;
	Size		new_length;
	const char *old_data = data_of(record->old_tuple, &old_length);
	const char *new_data = data_of(record->new_tuple, &new_length);
	Size		limit = Min(old_length, new_length);

	record->prefix = common_prefix(old_data, new_data, limit);
	record->suffix = common_suffix(old_data + old_length, new_data + new_length, limit - record->prefix);
	if (record->prefix + record->suffix < MIN_SHARED)
		record->prefix = record->suffix = 0;
}

/*
 * image_head returns the number that an image begins with.
 */
static inline uint32
image_head(HeapTuple tuple, bool shares)
{
	return (uint32) HeapTupleHeaderGetNatts(tuple->t_data) << CQRS_IMAGE_SHIFT |
		(HeapTupleHasNulls(tuple) ? CQRS_IMAGE_NULLS : 0) |
		(HeapTupleHasVarWidth(tuple) ? CQRS_IMAGE_VARWIDTH : 0) |
		(shares ? CQRS_IMAGE_SHARES : 0);
}

/*
 * bitmap_size returns the bytes of a tuple's null bitmap, 0 if it has none.
 */
static inline Size
bitmap_size(HeapTuple tuple)
{
	return HeapTupleHasNulls(tuple) ? BITMAPLEN(HeapTupleHeaderGetNatts(tuple->t_data)) : 0;
}

/*
 * image_size returns the bytes an image takes that leaves out what it shares.
 */
static inline Size
image_size(HeapTuple tuple, Size prefix, Size suffix)
{
	bool		shares = prefix + suffix > 0;
	Size		length;

	(void) data_of(tuple, &length);
	length -= prefix + suffix;
	return varint_size(image_head(tuple, shares)) + (shares ? varint_size(prefix) + varint_size(suffix) : 0) +
		varint_size(length) + bitmap_size(tuple) + length;
}

/*
 * image_write writes an image, without what it shares, and returns the byte after it.
 */
static inline char *
image_write(HeapTuple tuple, Size prefix, Size suffix, char *to)
{
	bool		shares = prefix + suffix > 0;
	Size		bitmap = bitmap_size(tuple);
	Size		length;
	const char *data = data_of(tuple, &length);

	length -= prefix + suffix;
	to = varint_write(image_head(tuple, shares), to);
	if (shares)
		to = varint_write(suffix, varint_write(prefix, to));
	to = varint_write(length, to);
	memcpy(to, tuple->t_data->t_bits, bitmap);
	to += bitmap;
	memcpy(to, data + prefix, length);
	return to + length;
}

/*
 * cqrs_record_measure finds out what the images share and returns the bytes the record takes without its leading length.
 */
Size
cqrs_record_measure(CqrsRecord *record)
{
	Size		length = 1 + varint_size(record->shape) + varint_size(record->command);

	record->prefix = record->suffix = 0;
	if (record->old_tuple && record->new_tuple)
		share_data(record);
	if (record->old_tuple)
		length += image_size(record->old_tuple, 0, 0);
	if (record->new_tuple)
		length += image_size(record->new_tuple, record->prefix, record->suffix);
	return length;
}

/*
 * cqrs_record_write writes a record with its leading length and returns the byte after it.
 */
char *
cqrs_record_write(const CqrsRecord *record, Size length, char *to)
{
	to = varint_write(length, to);
	*to++ = (char) record->kind;
	to = varint_write(record->shape, to);
	to = varint_write(record->command, to);
	if (record->old_tuple)
		to = image_write(record->old_tuple, 0, 0, to);
	if (record->new_tuple)
		to = image_write(record->new_tuple, record->prefix, record->suffix, to);
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

	record = varint_read(record, &length);
	after = record + length;
	record = varint_read(record + 1, &value);
	if (shape)
		*shape = (int32) value;
	if (command)
		(void) varint_read(record, command);
	return after;
}
