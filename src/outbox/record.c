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
 * image_head returns the number that an image begins with.
 */
static inline uint32
image_head(HeapTuple tuple)
{
	return (uint32) HeapTupleHeaderGetNatts(tuple->t_data) << CQRS_IMAGE_SHIFT |
		(HeapTupleHasNulls(tuple) ? CQRS_IMAGE_NULLS : 0) |
		(HeapTupleHasVarWidth(tuple) ? CQRS_IMAGE_VARWIDTH : 0);
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
 * image_size returns the bytes an image takes.
 */
static inline Size
image_size(HeapTuple tuple)
{
	Size		data = tuple->t_len - tuple->t_data->t_hoff;

	return varint_size(image_head(tuple)) + varint_size(data) + bitmap_size(tuple) + data;
}

/*
 * image_write writes an image and returns the byte after it.
 */
static inline char *
image_write(HeapTuple tuple, char *to)
{
	Size		data = tuple->t_len - tuple->t_data->t_hoff;
	Size		bitmap = bitmap_size(tuple);

	to = varint_write(image_head(tuple), to);
	to = varint_write(data, to);
	memcpy(to, tuple->t_data->t_bits, bitmap);
	to += bitmap;
	memcpy(to, (char *) tuple->t_data + tuple->t_data->t_hoff, data);
	return to + data;
}

/*
 * cqrs_record_length returns the bytes a record takes without its leading length.
 */
Size
cqrs_record_length(const CqrsRecord *record)
{
	Size		length = 1 + varint_size(record->shape) + varint_size(record->command);

	if (record->old_tuple)
		length += image_size(record->old_tuple);
	if (record->new_tuple)
		length += image_size(record->new_tuple);
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
		to = image_write(record->old_tuple, to);
	if (record->new_tuple)
		to = image_write(record->new_tuple, to);
	return to;
}

/*
 * cqrs_record_skip steps over a record of our own and tells its shape.
 */
const char *
cqrs_record_skip(const char *record, int32 *shape)
{
	uint32		length;
	uint32		value;
	const char *after;

	record = varint_read(record, &length);
	after = record + length;
	(void) varint_read(record + 1, &value);
	*shape = (int32) value;
	return after;
}
