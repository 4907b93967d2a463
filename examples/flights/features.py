"""Will a flight arrive late?  What is known two hours before it leaves New York.

Entities, then sources, then features, then what the caller knows, then what the model reads.
"""

from datetime import datetime
from zoneinfo import ZoneInfo

import tidemark as tm

NEW_YORK = "America/New_York"
FLIGHT = ("carrier", "flight", "origin", "scheduled_departure")


class Carrier(tm.Entity):
    """An airline, by its two-letter code."""

    carrier: tm.Key[str]


class Origin(tm.Entity):
    """One of the three airports of New York."""

    origin: tm.Key[str]


class Dest(tm.Entity):
    """An airport that is flown to from New York."""

    dest: tm.Key[str]


class Route(tm.Entity):
    """A pair of airports, in the direction flown."""

    origin: tm.Key[str]
    dest: tm.Key[str]


class Aircraft(tm.Entity):
    """One airframe, by its tail number."""

    tailnum: tm.Key[str]


class Arrival(
    tm.Source,
    history=tm.parquet("history/arrivals.parquet"),
    time="arrived_at",  # not the scheduled time: nobody knows a delay before the aircraft is there
    unique=FLIGHT,  # a flight reported twice counts once
):
    """Completed flights, each known at the moment of its landing."""

    carrier: tm.Col[str]
    flight: tm.Col[int]
    origin: tm.Col[str]
    dest: tm.Col[str]
    tailnum: tm.Col[str]
    scheduled_departure: tm.Col[datetime]
    arr_delay: tm.Col[int] = tm.column(description="Minutes; early is negative")
    arrived_at: tm.Col[datetime]


class Departure(
    tm.Source,
    history=tm.parquet("history/departures.parquet"),
    time="departed_at",
    timezone=NEW_YORK,  # the airports' clocks, written without a zone
    unique=FLIGHT,
):
    """Flights that have left, as the tower notes them."""

    carrier: tm.Col[str]
    flight: tm.Col[int]
    origin: tm.Col[str]
    scheduled_departure: tm.Col[datetime]
    dep_delay: tm.Col[int] = tm.column(description="Minutes; early is negative")
    departed_at: tm.Col[datetime]


class Weather(tm.Source, history=tm.parquet("history/weather.parquet"), time="observed_at"):
    """Hourly observations at the three airports."""

    origin: tm.Col[str]
    observed_at: tm.Col[datetime]
    temp: tm.Col[float | None] = tm.column(description="Degrees Fahrenheit")
    humid: tm.Col[float | None] = tm.column(description="Relative humidity in percent")
    wind_speed: tm.Col[float | None] = tm.column(description="Miles per hour")
    precip: tm.Col[float | None] = tm.column(description="Inches in the hour")
    pressure: tm.Col[float | None] = tm.column(description="Millibars at sea level")
    visib: tm.Col[float | None] = tm.column(description="Miles")


class Plane(tm.Source, history=tm.parquet("history/planes.parquet"), time=None):
    """The register of aircraft: facts without a time."""

    tailnum: tm.Col[str]
    built: tm.Col[int | None] = tm.column(description="Year")
    seats: tm.Col[int]


class Punctuality(tm.FeatureView, source=Arrival, abstract=True):
    """What landings say about whomever they belong to; each entity below gets all of it."""

    is_late = Arrival.arr_delay > 15

    landed = tm.count(over=("1h", "1d", "7d", "30d"))
    late = tm.count(where=is_late, over=("1h", "1d", "7d", "30d"))
    late_share = tm.mean(is_late.cast(float), over=("1h", "1d", "7d", "30d"))
    delay = tm.mean(Arrival.arr_delay, over=("1h", "1d", "7d", "30d"))


class CarrierPunctuality(Punctuality, entity=Carrier, owner="operations@example.com"):
    """How punctual an airline has been."""

    bad_delay = tm.quantile(Arrival.arr_delay, 0.9, over=("7d", "30d"))


class OriginPunctuality(Punctuality, entity=Origin, owner="operations@example.com"):
    """How punctual the flights out of an airport have been."""


class DestPunctuality(Punctuality, entity=Dest, owner="operations@example.com"):
    """How punctual the flights to an airport have been."""


class RoutePunctuality(Punctuality, entity=Route, owner="operations@example.com"):
    """How punctual the flights between two airports have been."""

    bad_delay = tm.quantile(Arrival.arr_delay, 0.9, over=("7d", "30d"))


class AircraftHistory(tm.FeatureView, entity=Aircraft, source=Arrival, owner="fleet@example.com"):
    """What an aircraft has been through."""

    flights = tm.count(over="1d")
    last_delay = tm.last(Arrival.arr_delay, over="7d")
    worst_delay = tm.max(Arrival.arr_delay, over="7d")


class AircraftRegister(
    tm.FeatureView,
    entity=Aircraft,
    source=Plane,
    columns=(Plane.built, Plane.seats),
    owner="fleet@example.com",
):
    """What an aircraft is."""


class OriginTraffic(tm.FeatureView, entity=Origin, source=Departure, owner="tower@example.com"):
    """How an airport is getting its flights away."""

    departed_today = tm.count(over=tm.to_date("day", NEW_YORK))
    delay = tm.mean(Departure.dep_delay, over=("1h", "1d"))


class OriginWeather(
    tm.FeatureView,
    entity=Origin,
    source=Weather,
    columns=(
        Weather.temp,
        Weather.humid,
        Weather.wind_speed,
        Weather.precip,
        Weather.pressure,
        Weather.visib,
    ),
    max_age="3h",  # an older observation says nothing about now
    owner="tower@example.com",
):
    """The newest observation at an airport."""


class Departing(tm.Request):
    """What the caller knows of the flight asked about."""

    scheduled_departure: tm.Col[datetime]
    distance: tm.Col[int]


@tm.on_demand(scheduled=Departing.scheduled_departure)
def departure_hour(scheduled: datetime) -> int:
    """The hour of the scheduled departure, by the clock of New York."""
    return scheduled.astimezone(ZoneInfo(NEW_YORK)).hour


@tm.on_demand(scheduled=Departing.scheduled_departure)
def departure_weekday(scheduled: datetime) -> int:
    """The day of the week of the scheduled departure in New York; Monday is 1."""
    return scheduled.astimezone(ZoneInfo(NEW_YORK)).isoweekday()


@tm.on_demand(late=RoutePunctuality.late["30d"], landed=RoutePunctuality.landed["30d"])
def route_late_share(late: int, landed: int) -> float:
    """How many of the route's flights were late; drawn to one in four while there are few."""
    return (late + 5) / (landed + 20)


class FlightDelay(
    tm.FeatureService,
    features=(AircraftRegister, OriginWeather),  # all of these, under their own names
    owner="operations@example.com",
):
    """Inputs of the model that says, two hours ahead, whether a flight will arrive late."""

    departure_hour = departure_hour
    departure_weekday = departure_weekday
    distance = Departing.distance

    carrier_landed_1d = CarrierPunctuality.landed["1d"]
    carrier_late_1h = CarrierPunctuality.late_share["1h"]
    carrier_late_1d = CarrierPunctuality.late_share["1d"]
    carrier_late_7d = CarrierPunctuality.late_share["7d"]
    carrier_late_30d = CarrierPunctuality.late_share["30d"]
    carrier_delay_1h = CarrierPunctuality.delay["1h"]
    carrier_delay_1d = CarrierPunctuality.delay["1d"]
    carrier_delay_7d = CarrierPunctuality.delay["7d"]
    carrier_delay_30d = CarrierPunctuality.delay["30d"]
    carrier_bad_delay_7d = CarrierPunctuality.bad_delay["7d"]
    carrier_bad_delay_30d = CarrierPunctuality.bad_delay["30d"]

    origin_landed_1h = OriginPunctuality.landed["1h"]
    origin_late_1h = OriginPunctuality.late_share["1h"]
    origin_late_1d = OriginPunctuality.late_share["1d"]
    origin_late_7d = OriginPunctuality.late_share["7d"]
    origin_late_30d = OriginPunctuality.late_share["30d"]
    origin_delay_1h = OriginPunctuality.delay["1h"]
    origin_delay_1d = OriginPunctuality.delay["1d"]
    origin_delay_7d = OriginPunctuality.delay["7d"]
    origin_delay_30d = OriginPunctuality.delay["30d"]
    origin_departed_today = OriginTraffic.departed_today
    origin_departure_delay_1h = OriginTraffic.delay["1h"]
    origin_departure_delay_1d = OriginTraffic.delay["1d"]

    dest_late_1d = DestPunctuality.late_share["1d"]
    dest_late_7d = DestPunctuality.late_share["7d"]
    dest_late_30d = DestPunctuality.late_share["30d"]
    dest_delay_1d = DestPunctuality.delay["1d"]
    dest_delay_7d = DestPunctuality.delay["7d"]
    dest_delay_30d = DestPunctuality.delay["30d"]

    route_late_1d = RoutePunctuality.late["1d"]
    route_late_share = route_late_share
    route_delay_1d = RoutePunctuality.delay["1d"]
    route_delay_7d = RoutePunctuality.delay["7d"]
    route_bad_delay_7d = RoutePunctuality.bad_delay["7d"]
    route_bad_delay_30d = RoutePunctuality.bad_delay["30d"]

    aircraft_flights_1d = AircraftHistory.flights
    aircraft_last_delay = AircraftHistory.last_delay
    aircraft_worst_delay_7d = AircraftHistory.worst_delay
